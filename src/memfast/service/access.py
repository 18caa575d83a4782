"""Who may do what: API keys, and the life of the database that the workers watch."""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Literal
from uuid import UUID

from msgspec import Struct

from memfast.credentials import KeyRecord, NewKey
from memfast.errors import Forbidden, Unauthorized
from memfast.model import DatabaseFacts, Scope, derive_scope_id
from memfast.ports import Clock, KeyStore

__all__ = ["NOBODY", "Access", "Issued", "Keyring", "Principal"]

DEFAULT_NAMESPACE = "default"
_REMEMBERED_KEYS = 10_000
_REMEMBERED_SCOPES = 100_000


class Principal(Struct, frozen=True):
    """Whom a request speaks for. `user_id` limits it to one user; `key_id` names the key in history."""

    namespace: str
    user_id: str | None
    role: Literal["user", "admin"]
    key_id: str | None = None

    @property
    def tag(self) -> bytes:
        """What tells principals apart, for keys of answers; two keys with the same reach share them."""
        return repr((self.namespace, self.user_id, self.role)).encode()

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

    def require_whole_namespace(self) -> None:
        """Raise `Forbidden` unless the key is an administrator's, of all users."""
        self.require_admin()
        if self.user_id is not None:
            raise Forbidden("the API key was made for one user_id; name it")


NOBODY = Principal("", "", "user")
"""Who asks for what needs no key."""

_ANYBODY = Principal(DEFAULT_NAMESPACE, None, "admin")


class Access:
    """Turns credentials into principals and principals into scopes, without a statement on the hot path.

    While no key was ever made, any credential means namespace `default`. Keys are looked up once and remembered until
    `learned` hears that any key changed. Unknown ones are never remembered: guessing costs the guesser a look-up each.

    Args:
        keys: where keys lie.
        secret: the database's secret, for the ids of scopes.
        facts: the database's facts as they are now.
    """

    def __init__(self, keys: KeyStore, secret: bytes, facts: DatabaseFacts) -> None:
        self._keys = keys
        self._secret = secret
        self.facts = facts
        self._remembered: dict[bytes, Principal] = {}
        self._scope_ids: dict[tuple[str, str], UUID] = {}

    def recognise(self, authorization: bytes | None) -> Principal | None:
        """The principal of an `Authorization` header that was authenticated before, or None."""
        if self.facts.keys_generation == 0:
            return _ANYBODY
        return None if authorization is None else self._remembered.get(authorization)

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """The principal of an `Authorization` header.

        Raises:
            Unauthorized: there is none, or its key is unknown or revoked.
        """
        known = self.recognise(authorization)
        if known is not None:
            return known
        scheme, _, credential = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not credential.strip():
            raise Unauthorized("send the API key as `Authorization: Bearer <key>`")
        generation = self.facts.keys_generation
        record = await self._keys.find(sha256(credential.strip()).digest())
        if record is None:
            raise Unauthorized("the API key is unknown or was revoked")
        principal = Principal(record.namespace, record.user_id, record.role, record.id)
        if generation == self.facts.keys_generation:  # else it may have been revoked since: ask again next time
            while len(self._remembered) >= _REMEMBERED_KEYS:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[authorization or b""] = principal
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

    def learned(self, facts: DatabaseFacts) -> None:
        """The database's facts as they are now; remembered keys are forgotten when any key changed."""
        if facts.keys_generation != self.facts.keys_generation:
            self._remembered.clear()
        self.facts = facts


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
