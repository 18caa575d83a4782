"""What stands on the wire of searches; see `http.wire`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from memfast.filters import TagsMode
from memfast.http.wire import Consistency, Embedding, Incoming, Limit, MinVersion, Problem, UserId
from memfast.links import DEPTH_MAX
from memfast.model import Memory

__all__ = [
    "BoostsRequest",
    "ExpandRequest",
    "ExpansionRequest",
    "Explanation",
    "GraphScore",
    "LegScore",
    "Neighbor",
    "SearchAnswer",
    "SearchBatchAnswer",
    "SearchBatchRequest",
    "SearchExplanation",
    "SearchFailed",
    "SearchHit",
    "SearchItem",
    "SearchRequest",
]

Share = Annotated[float, Meta(ge=0, le=1)]
Leg = Literal["lexical", "vector", "context"]


class BoostsRequest(Incoming, kw_only=True):
    """What counts besides the match. What is left out is as the service is set."""

    similarity: Share | None = None
    importance: Share | None = None
    recency: Annotated[float, Meta(ge=1, le=10, description="what a young memory's score is multiplied by")] | None = (
        None
    )
    recency_window_s: (
        Annotated[float, Meta(ge=0, description="age up to which a memory is young, in seconds")] | None
    ) = None


class ExpansionRequest(Incoming, kw_only=True):
    """How far the query is widened. What is left out is as the service is set."""

    synonyms: Annotated[float, Meta(ge=0, le=1, description="what a related word counts; 0 = none")] | None = None
    feedback: Annotated[float, Meta(ge=0, le=4, description="how far the vector moves to the first hits")] | None = None


class ExpandRequest(Incoming, kw_only=True):
    """Memories that links lead to from the first ten hits."""

    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX, description="links to the farthest memory")] = 1
    weight: Annotated[
        float, Meta(ge=0, le=1, description="what such a memory counts beside the hit that it is related to")
    ] = 0.5


class SearchRequest(Incoming, kw_only=True):
    """Find memories by a text, a vector, or both."""

    user_id: UserId
    query: Annotated[str, Meta(min_length=1)] | None = None
    embedding: Embedding | None = None
    limit: Limit = 10
    mode: (
        Annotated[
            Literal["vector", "lexical", "hybrid"],
            Meta(description="hybrid where there is a text, vector where there is none"),
        ]
        | None
    ) = None
    min_score: Share = 0.0
    filter: dict[str, Any] | None = None
    tags: Annotated[list[str], Meta(description="memories with these tags, as tags_mode says")] = field(
        default_factory=list
    )
    tags_mode: Annotated[
        TagsMode, Meta(description="any or all of the tags; only the strict modes leave out memories without tags")
    ] = "any"
    min_version: MinVersion | None = None
    consistency: Consistency | None = None
    fusion: Annotated[Literal["convex", "rrf"], Meta(description="weighed scores, or ranks alone")] | None = None
    weights: (
        Annotated[
            dict[Leg, Share],
            Meta(
                description="of the legs of a hybrid search",
                extra_json_schema={"propertyNames": {"enum": list(get_args(Leg))}},
            ),
        ]
        | None
    ) = None
    convergence: Annotated[float, Meta(ge=0, le=1, description="bonus for what two legs agree on")] | None = None
    neighbors: Annotated[bool, Meta(description="memories of a run lend score to those beside them")] | None = None
    include_neighbors: Annotated[
        int, Meta(ge=0, le=2, description="memories before and after each hit, of the same run, that come with it")
    ] = 0
    fold_duplicates: Annotated[bool, Meta(description="of near-duplicates only the best")] = False
    boosts: BoostsRequest | None = None
    expansion: ExpansionRequest | None = None
    expand: ExpandRequest | None = None
    explain: Annotated[bool, Meta(description="say of each hit where its score comes from")] = False


class LegScore(Struct, kw_only=True):
    """What a leg says of a hit: as it measures, from 0 to 1, and its share of the sum."""

    raw: float
    scaled: float
    weight: float


class GraphScore(Struct, kw_only=True):
    """What came over links: the hit's score times their weights, and what counts of it."""

    raw: float
    weight: float
    score: float
    from_id: UUID
    depth: int


class Explanation(Struct, kw_only=True):
    """Where a score comes from. `added` is what neighbours and boosts made of it.

    With `graph` it is the larger of that and the graph's, where no other leg looked at the memory the graph's alone.
    """

    lexical: LegScore | UnsetType = UNSET
    vector: LegScore | UnsetType = UNSET
    context: LegScore | UnsetType = UNSET
    convergence: float
    added: float
    graph: GraphScore | UnsetType = UNSET


class Neighbor(Memory, frozen=True, kw_only=True):
    """A memory beside a hit in its run: so many places after it, or before it when negative."""

    distance: int


class SearchHit(Memory, frozen=True, kw_only=True):
    """A memory and its score from 0 to 1."""

    score: float
    scores: Explanation | UnsetType = UNSET
    neighbors: list[Neighbor] | UnsetType = UNSET


class SearchExplanation(Struct):
    """What was looked for: index terms and what each counts."""

    mode: Literal["vector", "lexical", "hybrid"]
    terms: dict[str, float]


class SearchAnswer(Struct):
    """Hits by falling score, and the version of the user's memories that they were found in."""

    results: list[SearchHit]
    version: int
    degraded: list[str]
    explain: SearchExplanation | UnsetType = UNSET


class SearchItem(SearchRequest, kw_only=True):
    """One search of a batch; its `user_id` wins over the batch's."""

    user_id: UserId | None = None  # type: ignore[assignment]


class SearchBatchRequest(Incoming, kw_only=True):
    """Several searches, each for itself. `min_version` is of those of the batch's `user_id`, `consistency` of all."""

    searches: Annotated[list[Raw], Meta(min_length=1, max_length=20)]
    user_id: UserId | None = None
    min_version: MinVersion | None = None
    consistency: Consistency | None = None


class SearchFailed(Struct):
    """A search of a batch that could not be answered."""

    problem: Problem


class SearchBatchAnswer(Struct):
    """For each search, in order, what it found or why it failed."""

    results: list[dict[str, Any]]  # SearchAnswer or SearchFailed: two structs without a tag make no union
