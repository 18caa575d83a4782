"""The Python client: `Client` and `AsyncClient`, one description of the API under both."""

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
    Receipt,
    Related,
    Removal,
    Stored,
    User,
)
from memfast.client.awaiting import AsyncClient
from memfast.client.blocking import Client
from memfast.client.launch import local, local_async

__all__ = [
    "AsyncClient",
    "Client",
    "EntityCount",
    "Event",
    "Found",
    "Health",
    "Hit",
    "Hits",
    "ImportReport",
    "Link",
    "LinkOutcome",
    "Memory",
    "Outcome",
    "Receipt",
    "Related",
    "Removal",
    "Stored",
    "User",
    "local",
    "local_async",
]
