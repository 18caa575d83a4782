"""Any changes to one user's memories, and a model of what they do: plain lists of what each memory was."""

import unicodedata
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from memfast.errors import Conflict, NotFound, PreconditionFailed
from memfast.model import Create, Delete, Patch, Scope, Undelete
from memory_world import memory_of

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(days=1), NOW - timedelta(days=1)
SCOPE = Scope(UUID(int=9), "default", "ada")
IDS = [UUID(int=number) for number in range(1, 5)]


def new_memory(target, text="text", expires_at=None, version=0, created_at=NOW):
    """A memory with one telling field."""
    return memory_of(
        NOW, id=target, user_id="ada", text=text, created_at=created_at, expires_at=expires_at, version=version
    )


def vector(number):
    """A vector that can be told from others, float32 (8,)."""
    return np.full(8, number, dtype=np.float32)


EXPIRIES = st.sampled_from([None, LATER, EARLIER, NOW])
VERSIONS = st.none() | st.frozensets(st.integers(1, 60), max_size=3)
TEXTS = st.sampled_from(["a", "b", " a\n", "\u00e9", "e\u0301"])
CHANGES = st.one_of(
    st.builds(
        lambda target, text, expires_at, on_conflict, number, dedupe: Create(
            scope=SCOPE,
            memory=new_memory(target, text, expires_at, created_at=NOW + timedelta(seconds=number)),
            vector=vector(number),
            on_conflict=on_conflict,
            dedupe=dedupe,
        ),
        st.sampled_from(IDS[:3]),
        TEXTS,
        EXPIRIES,
        st.sampled_from(["error", "update", "ignore"]),
        st.integers(1, 99),
        st.booleans(),
    ),
    st.builds(
        lambda target, text, expires_at, expected, number: Patch(
            scope=SCOPE,
            id=target,
            text=text,
            expires_at=expires_at,
            expected_versions=expected,
            vector=None if number is None else vector(number),
        ),
        st.sampled_from(IDS[:3]),
        st.just(UNSET) | TEXTS,
        st.just(UNSET) | EXPIRIES,
        VERSIONS,
        st.none() | st.integers(100, 199),
    ),
    st.builds(
        lambda target, expected, purge, expired: Delete(
            scope=SCOPE, id=target, expected_versions=expected, purge=purge, expired=expired
        ),
        st.sampled_from(IDS[:3]),
        VERSIONS,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        lambda target, expected, since: Undelete(scope=SCOPE, id=target, expected_versions=expected, since=since),
        st.sampled_from(IDS[:3]),
        VERSIONS,
        st.sampled_from([EARLIER, EARLIER, NOW]),
    ),
)


class Model:
    """The user's memories as they should be: id → states, each (event, version, memory or None, vector number)."""

    def __init__(self):
        self.states = {}
        self.version = 0

    def count(self):
        return sum(states[-1][2] is not None for states in self.states.values())

    def apply(self, change):
        """What the change must answer: (status, id, version, error)."""
        self.version += 1
        target = change.memory.id if isinstance(change, Create) else change.id
        states = self.states.get(target, [])
        _, version, memory, number = states[-1] if states else (None, None, None, None)
        if isinstance(change, Create):
            return self._create(change, target, memory, version)
        live = live_now(memory)
        if isinstance(change, Delete):
            return self._delete(change, target, memory, version)
        if isinstance(change, Undelete):
            return self._undelete(change, target, states)
        if not live:
            return None, target, 0, NotFound
        if not expected(change, version):
            return None, target, 0, PreconditionFailed
        fields = {name: getattr(change, name) for name in ("text", "expires_at") if getattr(change, name) is not UNSET}
        after = replace(memory, **fields, version=self.version, updated_at=NOW)
        number = number if change.vector is None else int(change.vector[0])
        states.append(("updated", self.version, after, number))
        return "updated", target, self.version, None

    def _create(self, change, target, memory, version):
        if change.dedupe:
            wanted = unicodedata.normalize("NFC", change.memory.text.strip())
            same = [
                states[-1][2].id
                for states in self.states.values()
                if live_now(states[-1][2]) and unicodedata.normalize("NFC", states[-1][2].text.strip()) == wanted
            ]
            if same:
                return "duplicate", min(same), self.states[min(same)][-1][1], None
        live = live_now(memory)
        if live and change.on_conflict == "error":
            return None, target, 0, Conflict
        if live and change.on_conflict == "ignore":
            return "duplicate", target, version, None
        created_at = memory.created_at if live else change.memory.created_at
        after = replace(change.memory, version=self.version, created_at=created_at)
        status = "updated" if live else "created"
        self.states.setdefault(target, []).append((status, self.version, after, int(change.vector[0])))
        return status, target, self.version, None

    def _delete(self, change, target, memory, version):
        if version is None or (change.expired and (memory is None or live_now(memory))):
            return None, target, 0, NotFound
        if memory is not None and not expected(change, version):
            return None, target, 0, PreconditionFailed
        if change.purge:
            del self.states[target][: -1 if memory is None else None]
        if memory is None:
            return "deleted", target, version, None
        self.states[target].append(("deleted", self.version, None, None))
        return "deleted", target, self.version, None

    def _undelete(self, change, target, states):
        if not states:
            return None, target, 0, NotFound
        _, version, memory, _ = states[-1]
        if live_now(memory):
            return None, target, 0, Conflict
        hidden = [state for state in states[-2:-1] if memory is None and state[2] is not None]
        if not hidden or change.since == NOW or not live_now(hidden[0][2]):
            return None, target, 0, NotFound
        if not expected(change, version):
            return None, target, 0, PreconditionFailed
        states.append(("undeleted", self.version, replace(hidden[0][2], version=self.version), hidden[0][3]))
        return "updated", target, self.version, None


def live_now(memory):
    """Whether readers see it."""
    return memory is not None and (memory.expires_at is None or memory.expires_at > NOW)


def expected(change, version):
    """Whether If-Match lets the change through."""
    return change.expected_versions is None or version in change.expected_versions


FLUSHES = st.lists(st.lists(CHANGES, min_size=1, max_size=6), max_size=6)
