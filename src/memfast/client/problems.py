"""Refusals as errors: the tree of `memfast.errors`, by the type of the problem."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from memfast.client.exchange import Answer
from memfast.errors import MemfastError, Problem, Rejected, Unavailable, UnexpectedAnswer

__all__ = ["error_of", "error_of_problem"]

_PREFIX = "urn:memfast:problem:"
_SHOWN_BYTES = 200
_UNAVAILABLE = frozenset({429, 502, 503, 504, 507})
"""Statuses of a refusal that may be over soon, where nobody says more: a proxy's too."""


def _leaves(kind: type[MemfastError]) -> Iterator[type[MemfastError]]:
    below = kind.__subclasses__()
    for each in below:
        yield from _leaves(each)
    if not below:
        yield kind


_REJECTED = {kind.slug: kind for kind in _leaves(Rejected) if issubclass(kind, Rejected)}
_LATER = {kind.slug: kind for kind in _leaves(Unavailable) if issubclass(kind, Unavailable)}


def error_of(answer: Answer) -> MemfastError:
    """The error that an answer tells of; `retry_after_s` is the service's."""
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except msgspec.DecodeError:
        shown = answer.body[:_SHOWN_BYTES].decode("utf-8", "replace")
        detail = f"the answer is {answer.status} and no problem of memfast: {shown!r}; is the address right?"
        if answer.status in _UNAVAILABLE:
            return Unavailable(detail, retry_after_s=_retry_after_s(answer))
        return UnexpectedAnswer(detail)
    return error_of_problem(problem, retry_after_s=_retry_after_s(answer))


def error_of_problem(problem: Problem, *, retry_after_s: int = 0) -> MemfastError:
    """The error of a problem; of a type that this version does not know, the branch that its status names."""
    slug = problem.type.removeprefix(_PREFIX)
    error: MemfastError
    if slug in _LATER or (slug not in _REJECTED and problem.status in _UNAVAILABLE):
        error = _LATER.get(slug, Unavailable)(problem.detail, retry_after_s=retry_after_s)
    elif slug in _REJECTED or problem.status < 500:
        error = _REJECTED.get(slug, Rejected)(problem.detail, path=problem.path)
    else:
        error = MemfastError(problem.detail)
    error.problem = problem
    return error


def _retry_after_s(answer: Answer) -> int:
    """Seconds; 0 where it is not said, or said as a date."""
    said = answer.headers.get(b"retry-after", b"")
    return int(said) if said.isdigit() and len(said) < 9 else 0
