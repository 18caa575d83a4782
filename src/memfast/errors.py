"""Every error that memfast raises on purpose.

```
MemfastError
├── Rejected                what the caller sent or asked for; sending it again changes nothing
│   ├── InvalidRequest         400  the body, a field, a parameter or a cursor is wrong
│   ├── Unauthorized           401  no key, or one that is unknown or revoked
│   ├── Forbidden              403  the key does not reach this user or this route
│   ├── NotFound               404  no such memory or user in this scope
│   ├── MethodNotAllowed       405
│   ├── RequestTimeout         408  the body did not arrive in time
│   ├── Conflict               409  the id is in use
│   ├── VersionAhead           409  the token asks for a version that the database does not have
│   ├── OtherLineage           409  the token is of another life of the database
│   ├── AnswerErased           410  the key's request was done, and what its answer showed was purged
│   ├── PreconditionFailed     412  If-Match names another version
│   ├── PayloadTooLarge        413
│   ├── UnsupportedMediaType   415
│   ├── KeyReused              422  the idempotency key belongs to another request
│   └── EmbeddingRequired      422  this service makes no vectors, so the request must bring one
├── Unavailable             the service cannot do it now; the same request may work later
│   ├── Overloaded             503  more is asked than can be done in time; nothing was begun
│   ├── KeyInUse               409  the first request with this idempotency key is under way; nothing was begun
│   ├── ModeRefused            503  the mode that the service is in leaves this out; nothing was begun
│   ├── QueueFull              429  more writes wait than may wait; nothing was begun
│   ├── Stopping               503  the service ends; nothing was begun
│   ├── StoreUnavailable       503  PostgreSQL cannot be reached
│   ├── StoreFull              507  PostgreSQL has no room left
│   ├── StillReading           503  the user's memories are being read
│   ├── EmbedderUnavailable    503  the embedding endpoint failed
│   ├── EmbedderChanged        503  the database was moved to another model just now
│   ├── GraphUnavailable       503  the copy of the links in another engine cannot be asked
│   ├── DeadlineExceeded       504  the request's time is up; nothing was written
│   ├── OutcomeUnknown         504  the connection broke at COMMIT: written or not, ask again
│   └── ServiceUnreachable     503  raised by clients: no connection, or it broke before a read was answered
├── UnexpectedAnswer           500  raised by clients: what answered does not speak as memfast does
└── StartError              `memfast` cannot start; carries an exit code
    ├── ConfigError             2
    ├── PortTaken               3
    ├── DataDirBusy             4
    ├── DatabaseRefused         5  too old, without pgvector, unreachable, or another schema
    ├── EmbedderMismatch        6  the database was filled by another model
    └── CommandFailed           1
```
A face turns the first two into RFC 9457 problems by `slug`, `status` and `title`, the last into a message and an
exit code. A client turns problems into these errors again, with the problem itself as `problem`.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

__all__ = [
    "AnswerErased",
    "CommandFailed",
    "ConfigError",
    "Conflict",
    "DataDirBusy",
    "DatabaseRefused",
    "DeadlineExceeded",
    "EmbedderChanged",
    "EmbedderMismatch",
    "EmbedderUnavailable",
    "EmbeddingRequired",
    "Forbidden",
    "GraphUnavailable",
    "InvalidRequest",
    "KeyInUse",
    "KeyReused",
    "MemfastError",
    "MethodNotAllowed",
    "ModeRefused",
    "NotFound",
    "OtherLineage",
    "OutcomeUnknown",
    "Overloaded",
    "PayloadTooLarge",
    "PortTaken",
    "PreconditionFailed",
    "Problem",
    "QueueFull",
    "Rejected",
    "RequestTimeout",
    "ServiceUnreachable",
    "StartError",
    "StillReading",
    "Stopping",
    "StoreFull",
    "StoreUnavailable",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "VersionAhead",
]


class Problem(Struct, kw_only=True, omit_defaults=True):
    """An error (RFC 9457). `type` is stable; `path` names the field that was wrong."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    path: str | None = None


class MemfastError(Exception):
    """The root. `str(error)` is the detail: what was wrong, where, and what to do.

    `problem` is what the service said, where a client raises it; None where the client itself found out.
    """

    problem: Problem | None = None
    slug: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"


class Rejected(MemfastError):
    """The request cannot be served as it is. `path` is the JSON path of the field, or None."""

    def __init__(self, detail: str, *, path: str | None = None) -> None:
        super().__init__(detail)
        self.path = path


class InvalidRequest(Rejected):
    slug, status, title = "invalid-request", 400, "The request is not valid"


class Unauthorized(Rejected):
    slug, status, title = "unauthorized", 401, "An API key is needed"


class Forbidden(Rejected):
    slug, status, title = "forbidden", 403, "The API key does not reach this"


class NotFound(Rejected):
    slug, status, title = "not-found", 404, "Not found"


class MethodNotAllowed(Rejected):
    slug, status, title = "method-not-allowed", 405, "The route does not have this method"


class RequestTimeout(Rejected):
    slug, status, title = "request-timeout", 408, "The request did not arrive in time"


class Conflict(Rejected):
    slug, status, title = "conflict", 409, "The id is in use"


class VersionAhead(Rejected):
    slug, status, title = "version-ahead", 409, "The state that was asked for does not exist"


class OtherLineage(Rejected):
    slug, status, title = "other-lineage", 409, "The token is of another life of the database"


class AnswerErased(Rejected):
    slug, status, title = "answer-erased", 410, "The answer was erased"


class PreconditionFailed(Rejected):
    slug, status, title = "precondition-failed", 412, "The memory has another version"


class PayloadTooLarge(Rejected):
    slug, status, title = "payload-too-large", 413, "The request is too large"


class UnsupportedMediaType(Rejected):
    slug, status, title = "unsupported-media-type", 415, "The content type is not supported"


class KeyReused(Rejected):
    slug, status, title = "key-reused", 422, "The idempotency key belongs to another request"


class EmbeddingRequired(Rejected):
    slug, status, title = "embedding-required", 422, "The request must bring an embedding"


class Unavailable(MemfastError):
    """Not now. `retry_after_s` is a hint in seconds; `begun` is False where the store was not asked for anything."""

    def __init__(self, detail: str, *, retry_after_s: int = 1, begun: bool = True) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.begun = begun


class Overloaded(Unavailable):
    slug, status, title = "overloaded", 503, "The service is overloaded"


class KeyInUse(Unavailable):
    slug, status, title = "key-in-use", 409, "The first request with this idempotency key is under way"


class ModeRefused(Unavailable):
    slug, status, title = "mode-refused", 503, "The service does not do this in its present mode"


class QueueFull(Unavailable):
    slug, status, title = "queue-full", 429, "Too many writes wait already"


class Stopping(Unavailable):
    slug, status, title = "stopping", 503, "The service is stopping"


class GraphUnavailable(Unavailable):
    slug, status, title = "graph-unavailable", 503, "The graph engine cannot be reached"


class StoreUnavailable(Unavailable):
    slug, status, title = "store-unavailable", 503, "The database cannot be reached"


class StoreFull(Unavailable):
    slug, status, title = "store-full", 507, "The database has no room left"


class StillReading(Unavailable):
    slug, status, title = "still-reading", 503, "The user's memories are being read"


class EmbedderUnavailable(Unavailable):
    """`failure` says what the endpoint did wrong; None where this one request was refused, or nobody was asked."""

    def __init__(self, detail: str, *, retry_after_s: int = 1, begun: bool = True, failure: str | None = None) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, begun=begun)
        self.failure = failure

    slug, status, title = "embedder-unavailable", 503, "The embedder failed"


class EmbedderChanged(Unavailable):
    slug, status, title = "embedder-changed", 503, "The database was moved to another embedding model"


class DeadlineExceeded(Unavailable):
    slug, status, title = "deadline-exceeded", 504, "The request took too long"


class OutcomeUnknown(Unavailable):
    slug, status, title = "outcome-unknown", 504, "The write may or may not have happened"


class ServiceUnreachable(Unavailable):
    slug, status, title = "service-unreachable", 503, "The service cannot be reached"


class UnexpectedAnswer(MemfastError):
    slug, status, title = "unexpected-answer", 500, "The answer is not one of memfast"


class StartError(MemfastError):
    """A command cannot go on; the process ends with `exit_code`."""

    exit_code: ClassVar[int] = 1


class CommandFailed(StartError):
    exit_code = 1


class ConfigError(StartError):
    exit_code = 2


class PortTaken(StartError):
    exit_code = 3


class DataDirBusy(StartError):
    exit_code = 4


class DatabaseRefused(StartError):
    exit_code = 5


class EmbedderMismatch(StartError):
    exit_code = 6
