"""What stands on the wire: requests as mem0's clients send them, memories as they read them."""

from __future__ import annotations

from datetime import datetime
from hashlib import md5
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, Struct, UnsetType

from memfast.mem0.entities import FIELDS, Entities, read_name, standing
from memfast.service.mem0 import OWN, show_expiry

__all__ = [
    "MEMORY_FIELDS",
    "AddRequest",
    "BatchDeleteRequest",
    "BatchUpdateRequest",
    "CreateExportRequest",
    "DeleteAllParameters",
    "DeleteParameters",
    "FeedbackRequest",
    "GetExportRequest",
    "ListParameters",
    "ListRequest",
    "Message",
    "PageParameters",
    "Parameters",
    "SearchRequest",
    "Shown",
    "UpdateRequest",
    "read_entities",
    "show",
]

_Name = str | int | None
_PAGE_MAX = 10**9
_Page = Annotated[int, Meta(ge=1, le=_PAGE_MAX)]


class _Known(Struct, kw_only=True, forbid_unknown_fields=True):
    """A request whose unknown fields are refused. `project_id`, if there is one, must be the key's namespace."""

    org_id: str | None = None
    project_id: str | None = None


class _Steered(_Known, kw_only=True, forbid_unknown_fields=True):
    """A request with fields that steer what is not done here. They are taken, and the answer says so."""

    steering: ClassVar[tuple[str, ...]] = ()
    version: Any = None
    source: Any = None
    output_format: str | None = None
    async_mode: Any = None
    enable_graph: bool | None = None

    def ignored(self) -> list[str]:
        """What is told of them."""
        given = [name for name in self.steering if getattr(self, name) not in (None, False)]
        asked = [*given, *(["enable_graph"] if self.enable_graph else [])]
        return [f"{name}: has no effect here" for name in asked]

    @property
    def bare(self) -> bool:
        """Whether the results are wanted as a list by themselves, as clients of old read them."""
        return self.output_format == "v1.0"


class _Owned(_Steered, kw_only=True, forbid_unknown_fields=True):
    user_id: _Name = None
    agent_id: _Name = None
    app_id: _Name = None
    run_id: _Name = None
    filters: dict[str, Any] | None = None


class Message(Struct, kw_only=True):
    """One turn of a conversation."""

    content: str | list[dict[str, Any]] | None = None
    role: str = "user"
    name: str | None = None


class AddRequest(_Owned, kw_only=True, forbid_unknown_fields=True):
    """Store what was said."""

    steering = (
        *("custom_categories", "custom_instructions", "agent_custom_instructions", "includes", "excludes"),
        *("structured_data_schema", "timezone", "observation_datetime", "memory_type", "prompt"),
    )
    messages: list[Message]
    metadata: dict[str, Any] | None = None
    categories: list[str] | None = None
    infer: bool | None = None
    immutable: bool | None = None
    timestamp: int | float | str | None = None
    expiration_date: str | None = None
    custom_categories: Any = None
    custom_instructions: Any = None
    agent_custom_instructions: Any = None
    includes: Any = None
    excludes: Any = None
    structured_data_schema: Any = None
    timezone: Any = None
    observation_datetime: Any = None
    memory_type: Any = None
    prompt: Any = None


class SearchRequest(_Owned, kw_only=True, forbid_unknown_fields=True):
    """Find memories."""

    steering = ("rerank", "reference_date", "explain", "filter_memories", "only_metadata_based_search")
    query: str
    top_k: int | None = None
    limit: int | None = None
    threshold: float | None = None
    fields: list[str] | None = None
    categories: list[str] | None = None
    metadata: dict[str, Any] | None = None
    show_expired: bool | None = None
    latest_only: bool | None = None
    keyword_search: bool | None = None
    rerank: Any = None
    reference_date: Any = None
    explain: Any = None
    filter_memories: Any = None
    only_metadata_based_search: Any = None


class ListRequest(_Owned, kw_only=True, forbid_unknown_fields=True):
    """List memories."""

    page: _Page | None = None
    page_size: int | None = None
    start_date: str | None = None
    end_date: str | None = None
    categories: list[str] | None = None
    fields: list[str] | None = None
    metadata: dict[str, Any] | None = None
    show_expired: bool | None = None
    latest_only: bool | None = None


class CreateExportRequest(_Owned, kw_only=True, forbid_unknown_fields=True):
    """Make an export. The schema is one of JSON, as text or as an object."""

    steering = ("export_instructions",)
    schema: str | dict[str, Any]
    export_instructions: Any = None


class GetExportRequest(_Owned, kw_only=True, forbid_unknown_fields=True):
    """Read an export by its id, or what is selected."""

    memory_export_id: str | None = None


class UpdateRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """Change a memory. An `expiration_date` of null clears it."""

    text: str | None = None
    metadata: dict[str, Any] | None = None
    categories: list[str] | None = None
    timestamp: Any = None
    expiration_date: str | UnsetType | None = UNSET


class BatchUpdateItem(UpdateRequest, kw_only=True, forbid_unknown_fields=True):
    memory_id: str


class BatchUpdateRequest(_Known, kw_only=True, forbid_unknown_fields=True):
    """Change memories."""

    memories: list[BatchUpdateItem]


class BatchDeleteItem(Struct, kw_only=True, forbid_unknown_fields=True):
    memory_id: str


class BatchDeleteRequest(_Known, kw_only=True, forbid_unknown_fields=True):
    """Delete memories."""

    memories: list[BatchDeleteItem]


class FeedbackRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a user thinks of a memory."""

    memory_id: str
    feedback: str | None = None
    feedback_reason: str | None = None


class Parameters(_Known, kw_only=True, forbid_unknown_fields=True):
    """The query string where nothing is asked by it."""


class DeleteParameters(_Known, kw_only=True, forbid_unknown_fields=True):
    delete_linked: str | None = None


class DeleteAllParameters(_Known, kw_only=True, forbid_unknown_fields=True):
    user_id: str | None = None
    agent_id: str | None = None
    app_id: str | None = None
    run_id: str | None = None


class PageParameters(_Known, kw_only=True, forbid_unknown_fields=True):
    page: _Page | None = None
    page_size: int | None = None


class ListParameters(DeleteAllParameters, kw_only=True, forbid_unknown_fields=True):
    page: _Page | None = None
    page_size: int | None = None
    top_k: int | None = None
    limit: int | None = None
    show_expired: bool | None = None
    output_format: str | None = None


class Shown(Struct, kw_only=True):
    """A memory of memfast, as it stands in answers."""

    id: str
    user_id: str
    text: str
    tags: list[str]
    metadata: dict[str, Any]
    agent_id: str | None
    run_id: str | None
    created_at: str
    updated_at: str
    expires_at: datetime | None
    score: float | None = None


_OWN_FIELDS = ("actor_id", "role", "feedback", "feedback_reason")

MEMORY_FIELDS = frozenset(
    (
        *("id", "memory", "hash", *FIELDS, "session_id", "metadata", "categories", "immutable", "expiration_date"),
        *("created_at", "updated_at", *_OWN_FIELDS),
    )
)
"""The fields that a listed memory can have."""


def show(memory: Shown, fields: list[str] | None = None) -> dict[str, Any]:
    """A memory as mem0 gives it out, or so many fields of it."""
    metadata = dict(memory.metadata)
    own = metadata.pop(OWN) if isinstance(metadata.get(OWN), dict) else {}
    named = {"agent_id": memory.agent_id, "app_id": own.get("app_id"), "run_id": memory.run_id}
    named |= {f"{kind}_id": name for kind, name in standing(memory.user_id).items()}
    whole: dict[str, Any] = {
        "id": memory.id,
        "memory": memory.text,
        "hash": md5(memory.text.encode(), usedforsecurity=False).hexdigest(),
        **{field: named.get(field) for field in FIELDS},
        "session_id": named.get("run_id"),
        "metadata": metadata,
        "categories": memory.tags,
        "immutable": own.get("immutable") is True,
        "expiration_date": show_expiry(memory.expires_at),
        "created_at": memory.created_at,
        "updated_at": memory.updated_at,
    }
    whole |= {name: own[name] for name in _OWN_FIELDS if own.get(name) is not None}
    if memory.score is not None:
        whole["score"] = memory.score
    return whole if fields is None else {name: whole[name] for name in ("id", *fields) if name in whole}


def read_entities(request: _Owned | DeleteAllParameters, path: str) -> Entities:
    """The entities that a request names beside its filters.

    Raises:
        InvalidRequest: a name is not valid.
    """
    given = ((field, getattr(request, field)) for field in FIELDS)
    return Entities(**{field: read_name(name, f"{path}{field}") for field, name in given if name is not None})
