"""How far the client's own writes have come, user by user, so that its reads are never behind them."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["Tokens"]


class Tokens:
    """The newest token of each user's writes; of the least recently used users none, once there are too many.

    A token is `lineage.version`: in one life of the database the higher version is newer; another life's replaces it.

    Args:
        users_max: users that are kept.
    """

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, user_id: str, token: str) -> None:
        """A write of the user was acknowledged."""
        with self._lock:
            before = self._tokens.pop(user_id, "")
            self._tokens[user_id] = before if _newer(before, token) else token
            if len(self._tokens) > self._users_max:
                self._tokens.popitem(last=False)

    def get(self, user_id: str | None) -> str | None:
        """What reads of the user must not be behind."""
        with self._lock:
            token = self._tokens.get(user_id or "")
            if token is not None:
                self._tokens.move_to_end(user_id or "")
            return token

    def drop(self, user_id: str, token: str) -> None:
        """A token is of a life of the database that is over."""
        with self._lock:
            if self._tokens.get(user_id) == token:
                del self._tokens[user_id]

    def unlock(self) -> None:
        """After a fork: whoever held the lock is not in this process."""
        self._lock = threading.Lock()


def _newer(one: str, other: str) -> bool:
    """Whether a token is of the same life as another, and of a higher version."""
    life, _, version = one.partition(".")
    other_life, _, other_version = other.partition(".")
    return life == other_life and int(version) > int(other_version)
