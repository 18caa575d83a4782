"""Which writes share a flush and when it goes: rules one by one, then any order of events against a model."""

from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memfast.errors import QueueFull, Stopping
from memfast.service.groups import SIZE_BOUNDS, WAIT_BOUNDS_MS, GroupLimits, Groups, Item

LIMITS = {"flush_items": 4, "wait_s": 0.125, "flushes": 2, "queue_items": 8, "background_items": 20, "age_s": 0.5}


def made(**changed):
    """Groups with small bounds."""
    return Groups(GroupLimits(**LIMITS | changed))


def single(scope, *, background=False):
    """One change."""
    return Item([UUID(int=scope)], 1, alone=False, background=background)


def batch(*scopes, size=5, background=True):
    """Many changes."""
    return Item([UUID(int=scope) for scope in scopes], size, alone=True, background=background)


def offered(groups, *items, now_s=0.0):
    """Offer items at one time."""
    for item in items:
        groups.offer(item, now_s)
    return items


def test_the_first_change_waits_for_nobody():
    """Nothing is under way: it goes at once."""
    groups = made()
    (first,) = offered(groups, single(1))
    assert groups.next_flush(0.0) == [first]
    assert groups.next_flush(0.0) == []


def test_changes_gather_while_a_group_is_under_way():
    """They go when it is done, all together, in the order in which they came."""
    groups = made()
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    waiting = offered(groups, single(2), single(3))
    assert groups.next_flush(0.05) == []
    groups.finished(first)
    assert groups.next_flush(0.05) == list(waiting)


def test_a_full_group_waits_no_longer():
    """With room for another flush it goes beside the one that is under way."""
    groups = made()
    offered(groups, single(1))
    groups.next_flush(0.0)
    waiting = offered(groups, *(single(scope) for scope in range(2, 7)))
    assert groups.next_flush(0.0) == list(waiting[:4])
    groups.finished(waiting[:4])
    assert groups.next_flush(0.0) == []


def test_a_change_waits_for_company_for_a_bounded_time():
    """The group of its first change is due then, and not before; a timer is asked for."""
    groups = made()
    offered(groups, single(1))
    assert groups.wake_at() is None
    groups.next_flush(0.0)
    waiting = offered(groups, single(2), now_s=0.25) + offered(groups, single(3), now_s=0.3)
    assert groups.wake_at() == 0.375
    assert groups.next_flush(0.37) == []
    assert groups.next_flush(0.375) == list(waiting)
    assert groups.wake_at() is None  # both places are taken


def test_no_more_flushes_than_places():
    """Not even for a full group."""
    groups = made(flushes=1)
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    offered(groups, *(single(scope) for scope in range(2, 8)))
    assert groups.next_flush(9.0) == []
    groups.finished(first)
    assert len(groups.next_flush(9.0)) == 4


def test_changes_of_one_scope_go_one_flush_after_another():
    """Those of others pass them; they go in their order when theirs is done."""
    groups = made()
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    same = offered(groups, *(single(1) for _ in range(3)), now_s=0.1)
    other = offered(groups, single(2))
    assert groups.next_flush(0.125) == list(other)
    groups.finished(first)
    assert groups.next_flush(0.125) == []  # `other` is under way, and none has waited for long
    more = offered(groups, *(single(1) for _ in range(3)), now_s=0.13)
    assert groups.next_flush(0.13) == [*same, more[0]]
    later = offered(groups, single(1), now_s=0.14)
    groups.finished(other)
    assert groups.next_flush(9.0) == []
    groups.finished([*same, more[0]])
    assert groups.next_flush(9.0) == [*more[1:], *later]


def test_a_batch_is_a_flush_of_its_own():
    """It goes at once, beside a group; changes that come meanwhile do not wait for it unless they are of its scopes."""
    groups = made()
    (many,) = offered(groups, batch(1, 2))
    assert groups.next_flush(0.0) == [many]
    own, other = offered(groups, single(2), single(3))
    assert groups.next_flush(0.0) == [other]
    groups.finished([many])
    assert groups.next_flush(0.125) == [own]


@pytest.mark.parametrize(("flushes", "batches"), [(1, 1), (2, 1), (3, 2)])
def test_one_place_is_left_to_single_changes(flushes, batches):
    """Batches take all places but one, where there are several."""
    groups = made(flushes=flushes)
    offered(groups, *(batch(scope) for scope in range(4)))
    assert [len(groups.next_flush(0.0)) for _ in range(4)] == [1] * batches + [0] * (4 - batches)
    offered(groups, single(9))
    assert len(groups.next_flush(0.0)) == (flushes > 1)


def test_a_batch_waits_for_no_scope():
    """The lock of the row orders it against the changes of its scope that are under way."""
    groups = made()
    offered(groups, single(1))
    groups.next_flush(0.0)
    (many,) = offered(groups, batch(1))
    assert groups.next_flush(0.0) == [many]


def test_interactive_writes_go_first():
    """A group takes background changes when there is room left; a batch of the background comes last."""
    groups = made(flushes=1)
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    many, behind, *before = offered(groups, batch(2), single(3, background=True), single(4), single(5))
    groups.finished(first)
    flush = groups.next_flush(0.1)
    assert flush == [*before, behind]
    groups.finished(flush)
    assert groups.next_flush(0.1) == [many]


def test_what_has_waited_for_long_is_overtaken_no_more():
    """Background writes of that age go by their arrival: before interactive ones that came later."""
    groups = made(flushes=1)
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    many, behind = offered(groups, batch(2), single(3, background=True), now_s=0.1)
    before = offered(groups, *(single(scope) for scope in range(4, 8)), now_s=0.2)
    groups.finished(first)
    flush = groups.next_flush(0.59)
    assert flush == list(before)
    later = offered(groups, *(single(scope) for scope in range(4, 8)), now_s=0.59)
    groups.finished(flush)
    assert groups.next_flush(0.6) == [many]
    groups.finished([many])
    assert groups.next_flush(0.6) == [behind, *later[:3]]


def test_an_urgent_write_of_many_changes_goes_before_batches():
    """A forget is interactive."""
    groups = made()
    _, erased = offered(groups, batch(1), batch(2, size=1, background=False))
    assert groups.next_flush(0.0) == [erased]


def test_queues_are_bounded_each_by_itself():
    """One change too many is refused and leaves no trace; what is under way does not count."""
    groups = made()
    offered(groups, single(1))
    groups.next_flush(0.0)
    offered(groups, *(single(1) for _ in range(8)))
    with pytest.raises(QueueFull, match="8 changes"):
        groups.offer(single(1), 0.0)
    offered(groups, batch(2, size=19))
    with pytest.raises(QueueFull):
        groups.offer(batch(3, size=2), 0.0)
    offered(groups, single(4, background=True))
    counters = groups.snapshot()
    assert (counters.waiting_interactive, counters.waiting_background, counters.refused) == (8, 20, 2)


def test_an_empty_queue_takes_any_batch():
    """The bound of a batch is the route's; a larger one than the queue must not wait for ever."""
    groups = made()
    (many,) = offered(groups, batch(1, size=1000))
    assert groups.next_flush(0.0) == [many]


def test_what_waits_can_be_taken_back():
    """From wherever it waits, once; what was sent cannot."""
    groups = made()
    (sent,) = offered(groups, single(1))
    groups.next_flush(0.0)
    parked, queued, many = offered(groups, single(1), single(2), batch(3))
    assert groups.next_flush(0.0) == [many]
    (waiting,) = offered(groups, batch(3))
    assert [groups.withdraw(item) for item in (sent, many)] == [False, False]
    assert [groups.withdraw(item) for item in (parked, queued, waiting)] == [True, True, True]
    assert [groups.withdraw(item) for item in (parked, queued, waiting)] == [False, False, False]
    groups.finished([sent])
    groups.finished([many])
    assert groups.next_flush(9.0) == []
    assert (groups.waiting, groups.snapshot().withdrawn) == (0, 3)


def test_nothing_is_taken_after_the_end():
    """What waits still goes; or it is given up, from wherever it waits."""
    groups = made()
    offered(groups, single(1))
    groups.next_flush(0.0)
    items = offered(groups, single(1), single(2), batch(3))
    groups.stop()
    with pytest.raises(Stopping):
        groups.offer(single(4), 0.0)
    assert groups.next_flush(0.0) == [items[2]]
    assert set(groups.abandon()) == {items[0], items[1]}
    assert groups.waiting == 0


def test_everything_is_counted():
    """Flushes by size, writes by wait."""
    groups = made()
    first = offered(groups, single(1))
    groups.next_flush(0.0)
    offered(groups, single(2), single(3), now_s=0.001)
    groups.finished(first)
    groups.next_flush(0.031)
    counters = groups.snapshot()
    assert (counters.flushes, counters.changes, counters.under_way) == (2, 3, 1)
    assert dict(zip(SIZE_BOUNDS, counters.sizes, strict=False))[1] == 1
    assert dict(zip(SIZE_BOUNDS, counters.sizes, strict=False))[2] == 1
    waits = dict(zip(WAIT_BOUNDS_MS, counters.waits, strict=False))
    assert (waits[1], waits[50]) == (1, 2)
    assert counters.wait_us == pytest.approx(60_000, abs=2)


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, withdrawals, ends of flushes and the passing of time in any order, beside what is known of them."""

    def __init__(self):
        super().__init__()
        self.limits = GroupLimits(**LIMITS)
        self.groups = Groups(self.limits)
        self.now_s = 0.0
        self.waiting = []
        self.under_way = []
        self.sent = []

    @rule(scope=st.integers(1, 4), background=st.booleans())
    def single(self, scope, background):
        self._offer(single(scope, background=background))

    @rule(scopes=st.sets(st.integers(1, 4), min_size=1), size=st.integers(2, 9), background=st.booleans())
    def batch(self, scopes, size, background):
        self._offer(batch(*scopes, size=size, background=background))

    @rule(s=st.sampled_from([0.001, 0.05, 0.2, 0.6]))
    def wait(self, s):
        self.now_s += s
        self._send()

    @precondition(lambda self: self.under_way)
    @rule(row=st.integers(0, 9))
    def finish(self, row):
        self.groups.finished(self.under_way.pop(row % len(self.under_way)))
        self._send()

    @precondition(lambda self: self.waiting)
    @rule(row=st.integers(0, 99))
    def withdraw(self, row):
        assert self.groups.withdraw(self.waiting.pop(row % len(self.waiting)))

    @precondition(lambda self: self.sent)
    @rule(row=st.integers(0, 99))
    def withdraw_too_late(self, row):
        assert not self.groups.withdraw(self.sent[row % len(self.sent)])

    def _offer(self, item):
        own = [each for each in self.waiting if each.background == item.background]
        bound = self.limits.background_items if item.background else self.limits.queue_items
        changes = sum(each.size for each in own)
        try:
            self.groups.offer(item, self.now_s)
        except QueueFull:
            assert own
            assert changes + item.size > bound
        else:
            assert not own or changes + item.size <= bound
            self.waiting.append(item)
        self._send()

    def _send(self):
        while flush := self.groups.next_flush(self.now_s):
            self._check(flush)
            self.under_way.append(flush)
            self.sent += flush
            self.waiting = [item for item in self.waiting if item not in flush]
        self._check_idle()

    def _check(self, flush):
        """A flush is legal: only what waits, not too much, in order, with nothing that had to go first left behind."""
        assert len(self.under_way) < self.limits.flushes
        assert set(flush) <= set(self.waiting)
        assert len(flush) == len(set(flush))
        numbers = [item.number for item in flush]
        if flush[0].alone:
            assert len(flush) == 1
            assert sum(other[0].alone for other in self.under_way) < self.limits.flushes - 1
            return
        assert len(flush) <= self.limits.flush_items
        assert not any(item.alone for item in flush)
        busy = self._busy()
        assert not any(item.scopes[0] in busy for item in flush)
        for item in flush:
            left = [each for each in self._singles() if each not in flush and each.scopes == item.scopes]
            assert all(each.number > item.number for each in left if each.background == item.background)
        assert any(item.background for item in flush) or numbers == sorted(numbers)

    def _check_idle(self):
        """Whatever stays has a reason to wait."""
        if len(self.under_way) == self.limits.flushes:
            return
        groups = sum(not flush[0].alone for flush in self.under_way)
        free = [item for item in self._singles() if item.scopes[0] not in self._busy()]
        if not groups:
            assert not free
        assert len(free) < self.limits.flush_items
        assert all(self.now_s < item.arrived_s + self.limits.wait_s for item in free)
        batches = [item for item in self.waiting if item.alone]
        assert not batches or len(self.under_way) - groups == self.limits.flushes - 1
        if free:
            assert self.groups.wake_at() == min(item.arrived_s for item in free) + self.limits.wait_s

    def _singles(self):
        return [item for item in self.waiting if not item.alone]

    def _busy(self):
        return {scope for flush in self.under_way for item in flush for scope in item.scopes}

    @invariant()
    def counts_are_right(self):
        counters = self.groups.snapshot()
        assert counters.under_way == len(self.under_way)
        assert counters.changes == sum(item.size for item in self.sent)
        assert sum(counters.waits) == len(self.sent)
        for background, shown in ((False, counters.waiting_interactive), (True, counters.waiting_background)):
            assert shown == sum(item.size for item in self.waiting if item.background == background)

    def teardown(self):
        """In the end everything goes."""
        self.groups.stop()
        while self.under_way or self.waiting:
            if self.under_way:
                self.finish(0)
            else:
                self.wait(1.0)
                assert self.under_way


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
