"""What changes do to the rows of a scope, against a model that is a plain dictionary."""

from changes_world import FLUSHES, IDS, LATER, NOW, SCOPE, Model, new_memory, vector
from hypothesis import given, settings

from memfast.model import Create, Undelete
from memfast.store.flush import Content, Row, plan
from memfast.store.texts import hash_text


class Database:
    """Rows as `writes` carries a flush out: it writes what the plan says and nothing else.

    memories: id → (event, version, memory or None); history: id → the same with the number of a kept vector.
    """

    def __init__(self):
        self.memories = {}
        self.vectors = {}
        self.history = {}
        self.count = 0
        self.version = 0

    def flush(self, changes):
        flush = plan(changes, self._existing(changes), self._deleted(changes), first_version=self.version + 1, now=NOW)
        self.version += len(changes)
        self.count += flush.count_delta
        for target in flush.erased:
            self.history.pop(target, None)
        for target, passed in flush.passed.items():
            gone = flush.rows[target].memory is None
            hidden = next((row for row in reversed(passed) if row.memory is not None), None) if gone else None
            for row in passed:
                number = None if row is not hidden else self.vectors.get(target)
                if row is hidden and row.vector is not None:
                    number = int(row.vector[0])
                self._record(target, (event_of(row), row.version, row.memory, number))
        for target, row in flush.rows.items():
            assert row.stored == (target in self.memories)
            if row.stored and target not in flush.purged:
                number = self.vectors.get(target) if row.memory is None else None
                self._record(target, (*self.memories[target], number))
            self.memories[target] = (event_of(row), row.version, row.memory)
            if row.memory is None:
                self.vectors.pop(target, None)
                continue
            assert row.stored or row.vector is not None
            if row.vector is not None:
                self.vectors[target] = int(row.vector[0])
        return flush

    def _existing(self, changes):
        targets = {change.memory.id if isinstance(change, Create) else change.id for change in changes}
        hashes = {hash_text(c.memory.text) for c in changes if isinstance(c, Create) and c.dedupe}
        return {
            target: Row(memory=memory, version=version, stored=True, deleted_at=None if memory else NOW)
            for target, (_, version, memory) in self.memories.items()
            if target in targets or (memory is not None and hash_text(memory.text) in hashes)
        }

    def _deleted(self, changes):
        found = {}
        for target in {change.id for change in changes if isinstance(change, Undelete)}:
            hidden = [
                state for state in sorted(self.history.get(target, ()), key=lambda s: s[1]) if state[2] is not None
            ]
            if hidden:
                number = hidden[-1][3]
                found[target] = Content(hidden[-1][2], None if number is None else vector(number))
        return found

    def _record(self, target, state):
        self.history.setdefault(target, []).append(state)


def event_of(row):
    """What a row tells of itself."""
    return "deleted" if row.memory is None else row.event or "created"


@settings(max_examples=400, deadline=None)
@given(FLUSHES)
def test_any_sequence_of_writes_does_what_the_model_does(flushes):
    """Outcomes, rows, vectors, versions, the count, and the whole history, after every flush."""
    model, database = Model(), Database()
    for changes in flushes:
        for change, outcome in zip(changes, database.flush(changes).outcomes, strict=True):
            status, target, version, error = model.apply(change)
            assert (outcome.status, outcome.id) == (status, target)
            if error is not None:
                assert type(outcome.refused) is error
                continue
            assert outcome.refused is None
            assert outcome.version == version
            if status in {"created", "updated"}:
                assert outcome.memory == model.states[target][-1][2]
        assert database.memories == {target: states[-1][:3] for target, states in model.states.items()}
        assert database.vectors == {
            target: states[-1][3] for target, states in model.states.items() if states[-1][2] is not None
        }
        assert_same_past(model, database)
        assert database.count == model.count()
        assert database.version == model.version


def assert_same_past(model, database):
    """History has every state but the last; what a tombstone hides has its vector."""
    for target, states in model.states.items():
        past = sorted(database.history.get(target, ()), key=lambda state: state[1])
        hides = len(states) - 2 if states[-1][2] is None else None
        assert [state[:3] for state in past] == [state[:3] for state in states[:-1]]
        if hides is not None and hides >= 0 and states[hides][2] is not None:
            assert past[hides][3] == states[hides][3]


def test_an_outcome_knows_the_version_that_its_change_took():
    """Each change takes one of the scope, in order."""
    changes = [Create(scope=SCOPE, memory=new_memory(target), vector=vector(1)) for target in IDS]
    flush = plan(changes, {}, first_version=11, now=NOW)
    assert [outcome.version for outcome in flush.outcomes] == [11, 12, 13, 14]
    assert [outcome.scope_version for outcome in flush.outcomes] == list(range(15 - len(flush.outcomes), 15))


def test_the_moment_of_expiry_is_already_past():
    """A memory that expires now is gone now, in the plan as in every read."""
    assert not Row(memory=new_memory(IDS[0], expires_at=NOW), version=1, stored=True).live(NOW)
    assert Row(memory=new_memory(IDS[0], expires_at=LATER), version=1, stored=True).live(NOW)
