"""What changes do to the rows of a scope, against a model that is a plain dictionary."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from memfast.errors import Conflict, NotFound, PreconditionFailed
from memfast.model import EMPTY_OBJECT, Create, Delete, Memory, Patch, Scope
from memfast.store.flush import Row, plan

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LATER, EARLIER = NOW + timedelta(days=1), NOW - timedelta(days=1)
SCOPE = Scope(UUID(int=9), "default", "ada")
IDS = [UUID(int=number) for number in range(1, 5)]


def new_memory(target, text="text", expires_at=None, version=0, created_at=NOW):
    """A memory with one telling field."""
    return Memory(
        id=target,
        user_id="ada",
        text=text,
        kind="fact",
        tags=[],
        entities=[],
        importance=0.5,
        metadata=EMPTY_OBJECT,
        agent_id=None,
        run_id=None,
        source=None,
        created_at=created_at,
        updated_at=NOW,
        expires_at=expires_at,
        version=version,
    )


def vector(number):
    """A vector that can be told from others."""
    return np.full(2, number, dtype=np.float32)


EXPIRIES = st.sampled_from([None, LATER, EARLIER, NOW])
VERSIONS = st.none() | st.frozensets(st.integers(1, 60), max_size=3)
CHANGES = st.one_of(
    st.builds(
        lambda target, text, expires_at, on_conflict, number: Create(
            scope=SCOPE,
            memory=new_memory(target, text, expires_at, created_at=NOW + timedelta(seconds=number)),
            vector=vector(number),
            on_conflict=on_conflict,
        ),
        st.sampled_from(IDS),
        st.text("abc", min_size=1, max_size=2),
        EXPIRIES,
        st.sampled_from(["error", "update", "ignore"]),
        st.integers(1, 99),
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
        st.sampled_from(IDS),
        st.just(UNSET) | st.text("abc", min_size=1, max_size=2),
        st.just(UNSET) | EXPIRIES,
        VERSIONS,
        st.none() | st.integers(100, 199),
    ),
    st.builds(
        lambda target, expected: Delete(scope=SCOPE, id=target, expected_versions=expected),
        st.sampled_from(IDS),
        VERSIONS,
    ),
)


class Model:
    """The user's memories as they should be: id → (memory or None for a tombstone, version, vector number)."""

    def __init__(self):
        self.rows = {}
        self.version = 0

    def count(self):
        return sum(memory is not None for memory, _, _ in self.rows.values())

    def apply(self, change):
        """What the change must answer: (status, version, error)."""
        self.version += 1
        target = change.memory.id if isinstance(change, Create) else change.id
        memory, version, number = self.rows.get(target, (None, None, None))
        live = memory is not None and (memory.expires_at is None or memory.expires_at > NOW)
        if isinstance(change, Create):
            return self._create(change, target, memory, version, live)
        if isinstance(change, Delete) and memory is None and version is not None:
            return "deleted", version, None
        if not live:
            return None, 0, NotFound
        if change.expected_versions is not None and version not in change.expected_versions:
            return None, 0, PreconditionFailed
        if isinstance(change, Delete):
            self.rows[target] = (None, self.version, None)
            return "deleted", self.version, None
        fields = {name: getattr(change, name) for name in ("text", "expires_at") if getattr(change, name) is not UNSET}
        after = replace(memory, **fields, version=self.version, updated_at=NOW)
        number = number if change.vector is None else int(change.vector[0])
        self.rows[target] = (after, self.version, number)
        return "updated", self.version, None

    def _create(self, change, target, memory, version, live):
        if live and change.on_conflict == "error":
            return None, 0, Conflict
        if live and change.on_conflict == "ignore":
            return "duplicate", version, None
        created_at = memory.created_at if live else change.memory.created_at
        after = replace(change.memory, version=self.version, created_at=created_at)
        self.rows[target] = (after, self.version, int(change.vector[0]))
        return ("updated" if live else "created"), self.version, None


class Database:
    """Rows as `postgres` carries a flush out: it writes what the plan says and nothing else."""

    def __init__(self):
        self.memories = {}
        self.vectors = {}
        self.count = 0
        self.version = 0

    def flush(self, changes):
        targets = {change.memory.id if isinstance(change, Create) else change.id for change in changes}
        existing = {
            target: Row(memory=memory, version=version, stored=True)
            for target, (memory, version) in self.memories.items()
            if target in targets
        }
        flush = plan(changes, existing, first_version=self.version + 1, now=NOW)
        self.version += len(changes)
        self.count += flush.count_delta
        for target, row in flush.rows.items():
            assert row.stored == (target in self.memories)
            if row.memory is None:
                if row.stored:
                    self.memories[target] = (None, row.version)
                    self.vectors.pop(target, None)
                continue
            assert row.stored or row.vector is not None
            self.memories[target] = (row.memory, row.version)
            if row.vector is not None:
                self.vectors[target] = int(row.vector[0])
        return flush


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=6), max_size=5))
def test_any_sequence_of_writes_does_what_the_model_does(flushes):
    """Outcomes, rows, vectors, versions and the count, after every flush."""
    model, database = Model(), Database()
    for changes in flushes:
        gone_before_stored = set()
        for change, outcome in zip(changes, database.flush(changes).outcomes, strict=True):
            status, version, error = model.apply(change)
            assert outcome.status == status
            if error is not None:
                assert type(outcome.refused) is error
                continue
            assert outcome.refused is None
            assert outcome.version == version
            if status in {"created", "updated", "duplicate"}:
                assert outcome.memory == model.rows[outcome.id][0]
        for target, (memory, _, _) in list(model.rows.items()):
            if memory is None and target not in database.memories:  # made and deleted in one flush: no trace is kept
                gone_before_stored.add(target)
                del model.rows[target]
        assert database.memories == {target: (memory, version) for target, (memory, version, _) in model.rows.items()}
        assert database.vectors == {
            target: number for target, (memory, _, number) in model.rows.items() if memory is not None
        }
        assert database.count == model.count()
        assert database.version == model.version


def test_an_outcome_knows_the_version_of_the_whole_flush():
    """Its own version, and the scope's when the flush is through."""
    changes = [Create(scope=SCOPE, memory=new_memory(target), vector=vector(1)) for target in IDS]
    flush = plan(changes, {}, first_version=11, now=NOW)
    assert [outcome.version for outcome in flush.outcomes] == [11, 12, 13, 14]
    assert {outcome.scope_version for outcome in flush.outcomes} == {14}


def test_the_moment_of_expiry_is_already_past():
    """A memory that expires now is gone now, in the plan as in every read."""
    assert not Row(memory=new_memory(IDS[0], expires_at=NOW), version=1, stored=True).live(NOW)
    assert Row(memory=new_memory(IDS[0], expires_at=LATER), version=1, stored=True).live(NOW)
