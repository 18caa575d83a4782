"""How each answer is read."""

from __future__ import annotations

from typing import Any

import msgspec

from memfast.client.answers import (
    EntityCount,
    Event,
    Found,
    Health,
    Hit,
    Hits,
    ImportReport,
    Link,
    LinkOutcome,
    Memory,
    Outcome,
    Page,
    Receipt,
    Related,
    Removal,
    SearchExplanation,
    Stored,
    User,
)
from memfast.client.encode import Shape
from memfast.client.exchange import Answer
from memfast.client.problems import error_of_problem
from memfast.errors import MemfastError, Problem

__all__ = [
    "read_entities",
    "read_events",
    "read_found",
    "read_health",
    "read_hits",
    "read_link_outcome",
    "read_link_outcomes",
    "read_links",
    "read_memories",
    "read_memory",
    "read_nothing",
    "read_object",
    "read_outcomes",
    "read_receipt",
    "read_related",
    "read_removal",
    "read_report",
    "read_searches",
    "read_stored",
    "read_user",
    "read_users",
]


class _Results(msgspec.Struct):
    results: list[Outcome]


class _LinkResults(msgspec.Struct):
    results: list[LinkOutcome]


class _RelatedResults(msgspec.Struct):
    results: list[Related]


class _Search(msgspec.Struct):
    """The answer to a search; in a batch instead of it a problem."""

    results: list[Hit] = []
    version: int = 0
    degraded: tuple[str, ...] = ()
    explain: SearchExplanation | None = None
    problem: Problem | None = None

    def hits(self) -> Hits:
        """The answer as it is given out."""
        return Hits(self.results, version=self.version, degraded=self.degraded, explain=self.explain)


class _SearchBatch(msgspec.Struct):
    results: list[_Search]


class _Memories(msgspec.Struct):
    memories: list[Memory]
    next_cursor: str | None


class _Links(msgspec.Struct):
    links: list[Link]
    next_cursor: str | None


class _Entities(msgspec.Struct):
    entities: list[EntityCount]
    next_cursor: str | None


class _Events(msgspec.Struct):
    events: list[Event]
    next_cursor: str | None


class _Users(msgspec.Struct):
    users: list[User]
    next_cursor: str | None


read_memory, _stored, read_found = Shape(Memory), Shape(Stored), Shape(Found)
_results, _link_results, _related = Shape(_Results), Shape(_LinkResults), Shape(_RelatedResults)
_search, _search_batch = Shape(_Search), Shape(_SearchBatch)
_memories, _links, _events, _users = Shape(_Memories), Shape(_Links), Shape(_Events), Shape(_Users)
_entities = Shape(_Entities)
read_link_outcome, read_user, read_receipt, read_removal = (
    Shape(LinkOutcome),
    Shape(User),
    Shape(Receipt),
    Shape(Removal),
)
read_report, read_health, read_object = Shape(ImportReport), Shape(Health), Shape(dict[str, Any])


def read_nothing(_answer: Answer) -> None:
    """An answer without a body."""


def read_stored(answer: Answer) -> Stored:
    """A memory, with what became of it from the header."""
    status = answer.headers.get(b"memfast-status", b"created").decode("ascii", "replace")
    return msgspec.structs.replace(_stored(answer), status=status)


def read_outcomes(answer: Answer) -> list[Outcome]:
    """The results of a batch."""
    return _results(answer).results


def read_link_outcomes(answer: Answer) -> list[LinkOutcome]:
    """The results of a batch of links."""
    return _link_results(answer).results


def read_related(answer: Answer) -> list[Related]:
    """What a walk found."""
    return _related(answer).results


def read_hits(answer: Answer) -> Hits:
    """What a search found."""
    return _search(answer).hits()


def read_searches(answer: Answer) -> list[Hits | MemfastError]:
    """What each search of a batch found, or met."""
    found = _search_batch(answer).results
    return [each.hits() if each.problem is None else error_of_problem(each.problem) for each in found]


def read_memories(answer: Answer) -> Page[Memory]:
    """A page of memories."""
    page = _memories(answer)
    return Page(page.memories, page.next_cursor)


def read_links(answer: Answer) -> Page[Link]:
    """A page of links."""
    page = _links(answer)
    return Page(page.links, page.next_cursor)


def read_entities(answer: Answer) -> Page[EntityCount]:
    """A page of entities."""
    page = _entities(answer)
    return Page(page.entities, page.next_cursor)


def read_events(answer: Answer) -> Page[Event]:
    """A page of events."""
    page = _events(answer)
    return Page(page.events, page.next_cursor)


def read_users(answer: Answer) -> Page[User]:
    """A page of users."""
    page = _users(answer)
    return Page(page.users, page.next_cursor)
