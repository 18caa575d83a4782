"""Access statistics: counted in memory, written in the background."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from memfast.service import heat as heat_module
from memfast.service.heat import Heat

ADA, BOB = UUID(int=1), UUID(int=2)


class Log:
    """What was written."""

    def __init__(self):
        self.items = []

    async def record(self, reads, *, now):
        self.items.extend(reads)


class Clock:
    """A clock that stands still."""

    def now(self):
        return datetime(2026, 1, 1, tzinfo=UTC)


def counts(item):
    """Give the counts of an item by question."""
    return {query.request: query.count for query in item.queries}


async def test_reads_and_questions_are_counted_by_scope():
    """A recognised request counts for the question that it repeats."""
    log = Log()
    heat = Heat(log, Clock())
    heat.asked(ADA, b"key-1", b"what?")
    heat.read(ADA, b"key-1")
    heat.read(ADA, b"unknown")
    heat.read(BOB)
    await heat.flush()
    by_scope = {item.scope_id: item for item in log.items}
    assert by_scope[ADA].reads == 3
    assert counts(by_scope[ADA]) == {b"what?": 2}
    assert (by_scope[BOB].reads, by_scope[BOB].queries) == (1, [])


async def test_a_flush_starts_anew_but_keeps_the_wording():
    """Counts are written once; a question that goes on being asked is still known."""
    log = Log()
    heat = Heat(log, Clock())
    heat.asked(ADA, b"key-1", b"what?")
    await heat.flush()
    await heat.flush()
    assert len(log.items) == 1
    heat.read(ADA, b"key-1")
    await heat.flush()
    assert counts(log.items[1]) == {b"what?": 1}


async def test_scopes_and_questions_are_bounded():
    """Neither many users nor many questions grow the counters over their bounds."""
    log = Log()
    heat = Heat(log, Clock())
    for number in range(heat_module.SCOPES_MAX + 10):
        heat.read(UUID(int=number))
    for number in range(heat_module.QUERIES_MAX + 10):
        heat.asked(UUID(int=0), b"key-%d" % number, b"q%d" % number)
    await heat.flush()
    assert len(log.items) == heat_module.SCOPES_MAX
    assert len(log.items[0].queries) == heat_module.QUERIES_MAX


async def test_a_long_question_is_counted_and_not_remembered():
    """What is remembered of questions is bounded in bytes too."""
    log = Log()
    heat = Heat(log, Clock())
    heat.asked(ADA, b"key-1", b"x" * heat_module.REQUEST_BYTES_MAX)
    heat.asked(ADA, b"key-2", b"x" * (heat_module.REQUEST_BYTES_MAX + 1))
    await heat.flush()
    assert log.items[0].reads == 2
    assert [query.count for query in log.items[0].queries] == [1]


async def test_what_is_forgotten_is_counted_and_worded_no_more():
    """One scope's questions, reads and repetitions go; the other's stay."""
    log = Log()
    heat = Heat(log, Clock())
    for scope, key in ((ADA, b"key-1"), (ADA, b"key-2"), (BOB, b"key-3")):
        heat.asked(scope, key, b"what? " + key)
        heat.again(key, scope.bytes)
    assert (heat.scopes(), heat.questions(ADA)) == ({ADA, BOB}, 2)
    assert (heat.forget(ADA), heat.forget(ADA)) == (2, 0)
    assert (heat.scopes(), heat.questions(ADA), heat.questions(BOB)) == ({BOB}, 0, 1)
    await heat.flush()
    assert [(item.scope_id, item.reads) for item in log.items] == [(BOB, 2)]
