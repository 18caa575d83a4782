"""API keys as data: what is known of one, and what is stored of a new one."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct

__all__ = ["KeyRecord", "NewKey"]


class KeyRecord(Struct, frozen=True, kw_only=True):
    """An API key without its secret. `user_id` limits the key to one user."""

    id: str
    namespace: str
    user_id: str | None
    role: Literal["user", "admin"]
    created_at: datetime
    revoked_at: datetime | None = None


class NewKey(Struct, frozen=True, kw_only=True):
    """A key about to be stored: its SHA-256 digest and what it may reach."""

    id: str
    digest: bytes
    namespace: str
    user_id: str | None
    role: Literal["user", "admin"]
