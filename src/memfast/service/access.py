"""Who may do what: API keys, and the life of the database that the workers watch."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from hashlib import sha256
from typing import Literal
from uuid import UUID

from msgspec import Struct

from memfast.errors import Forbidden, MemfastError, Unauthorized
from memfast.model import DatabaseFacts, KeyRecord, NewKey, Scope, derive_scope_id
from memfast.ports import Clock, KeyStore

__all__ = ["Access", "Issued", "Keyring", "Principal"]

_log = logging.getLogger("memfast.access")

DEFAULT_NAMESPACE = "default"
_REMEMBERED_KEYS = 10_000
_REMEMBERED_SCOPES = 100_000


class Principal(Struct, frozen=True):
    """Whom a request speaks for. `user_id` limits it to one user."""

    namespace: str
    user_id: str | None
    role: Literal["user", "admin"]

    def reach(self, user_id: str) -> str:
        """The user id itself.

        Raises:
            Forbidden: the key was made for another user.
        """
        if self.user_id not in {None, user_id}:
            raise Forbidden("the API key was made for another user_id")
        return user_id

    def require_admin(self) -> None:
        """Raise `Forbidden` unless the key is an administrator's."""
        if self.role != "admin":
            raise Forbidden("this route needs an API key with the role admin")


_ANYBODY = Principal(DEFAULT_NAMESPACE, None, "admin")


class Access:
    """Turns credentials into principals and principals into scopes, without a statement on the hot path.

    While no key was ever made, any credential means namespace `default`. Keys are looked up once and remembered until
    `watch` sees that the keys changed, which it looks for every `interval_s`.

    Args:
        keys: where keys lie.
        secret: the database's secret, for the ids of scopes.
        facts: the database's facts as they are now.
    """

    def __init__(self, keys: KeyStore, secret: bytes, facts: DatabaseFacts) -> None:
        self._keys = keys
        self._secret = secret
        self.facts = facts
        self._remembered: OrderedDict[bytes, Principal | None] = OrderedDict()
        self._scope_ids: dict[tuple[str, str], UUID] = {}

    async def authenticate(self, credential: str | None) -> Principal:
        """The principal of a bearer credential.

        Raises:
            Unauthorized: none was sent, or it is unknown or revoked.
        """
        if self.facts.keys_generation == 0:
            return _ANYBODY
        if not credential:
            raise Unauthorized("send the API key as `Authorization: Bearer <key>`")
        digest = sha256(credential.encode("utf-8", "surrogateescape")).digest()
        try:
            principal = self._remembered[digest]
        except KeyError:
            principal = await self._look_up(digest)
        if principal is None:
            raise Unauthorized("the API key is unknown or was revoked")
        return principal

    def scope(self, principal: Principal, user_id: str) -> Scope:
        """The scope of a user as the principal may reach it.

        Raises:
            Forbidden: the key was made for another user.
        """
        name = (principal.namespace, principal.reach(user_id))
        scope_id = self._scope_ids.get(name)
        if scope_id is None:
            if len(self._scope_ids) >= _REMEMBERED_SCOPES:
                self._scope_ids.clear()
            scope_id = self._scope_ids[name] = derive_scope_id(self._secret, *name)
        return Scope(scope_id, *name)

    async def refresh(self) -> None:
        """Read the database's facts; forget remembered keys when any key changed."""
        facts = await self._keys.facts()
        if facts.keys_generation != self.facts.keys_generation:
            self._remembered.clear()
        if facts.lineage != self.facts.lineage:
            _log.warning("the database has begun a new life: it was restored or replaced")
        self.facts = facts

    async def watch(self, interval_s: float) -> None:
        """Refresh for ever; an unreachable database leaves what is known."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except MemfastError as error:
                _log.debug("the database's facts could not be read: %s", error)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over the database failed")

    async def _look_up(self, digest: bytes) -> Principal | None:
        generation = self.facts.keys_generation
        record = await self._keys.find(digest)
        principal = None if record is None else Principal(record.namespace, record.user_id, record.role)
        if generation == self.facts.keys_generation:  # else it may have been revoked since: ask again next time
            while len(self._remembered) >= _REMEMBERED_KEYS:
                self._remembered.popitem(last=False)
            self._remembered[digest] = principal
        return principal


class Issued(Struct, frozen=True):
    """A new key: its record, and the secret that is shown this once."""

    record: KeyRecord
    secret: str


class Keyring:
    """Makes, lists and revokes keys."""

    def __init__(self, keys: KeyStore, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def create(self, *, namespace: str, user_id: str | None, role: Literal["user", "admin"]) -> Issued:
        """Make a key of 256 random bits. Only its SHA-256 digest is stored."""
        key_id = secrets.token_hex(4)
        secret = f"mf_{key_id}_{secrets.token_urlsafe(32)}"
        new = NewKey(
            id=key_id,
            digest=sha256(secret.encode()).digest(),
            namespace=namespace,
            user_id=user_id,
            role=role,
        )
        return Issued(await self._keys.create(new, now=self._clock.now()), secret)

    async def all(self) -> list[KeyRecord]:
        """Every key, revoked ones included."""
        return await self._keys.all()

    async def revoke(self, key_id: str) -> bool:
        """Revoke a key; False when there is no live key of that id."""
        return await self._keys.revoke(key_id, now=self._clock.now())
