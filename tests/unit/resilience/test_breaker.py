"""The circuit breaker against a reference that was written for being read, and its promises one by one."""

import asyncio
import logging
import os
import random

import pytest

from memfast.resilience.breaker import Breaker, Transition, log_transition

EVENTS = 120_000 * int(os.environ.get("SOAK", "1"))
"""Random events of one run; `make soak` takes more than a million."""


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.seconds = 1000.0

    def monotonic(self):
        return self.seconds


class Era:
    """One stay in a state: what failed in it, and the tickets that it gave."""

    def __init__(self, state, since):
        self.state = state
        self.since = since
        self.outcomes = []
        self.tickets = []


class Reference:
    """The rules of the breaker, without any thought of speed: every stay in a state remembers everything."""

    def __init__(self, clock, failures, hold_s, probes, window_s):
        self.clock, self.limit, self.hold_s, self.probes, self.window_s = clock, failures, hold_s, probes, window_s
        self.eras = [Era("closed", clock.seconds)]

    @property
    def era(self):
        last = self.eras[-1]
        if last.state == "open" and self.clock.seconds - last.since >= self.hold_s:
            last = self.enter("half_open")
        return last

    def enter(self, state):
        self.eras.append(Era(state, self.clock.seconds))
        return self.eras[-1]

    def admit(self):
        era, now = self.era, self.clock.seconds
        ticket = {"era": era, "at": now, "how": None}
        if era.state == "half_open":
            good = [t for t in era.tickets if t["how"] == "success"]
            for each in era.tickets:
                if each["how"] is None and now - each["at"] >= self.window_s:
                    each["how"] = "lost"
            under_way = [t for t in era.tickets if t["how"] is None]
            if len(good) + len(under_way) >= self.probes:
                return None
        elif era.state != "closed":
            return None
        era.tickets.append(ticket)
        return ticket

    def settle(self, ticket, how):
        # The clock alone changes nothing here: only an admission looks whether the hold is over.
        if ticket["era"] is not self.eras[-1] or ticket["how"] is not None:
            return
        ticket["how"] = how
        era = ticket["era"]
        if era.state == "closed" and how == "failure":
            self.fail()
        elif era.state == "closed":  # also where it was slow: that opens nothing by itself
            era.outcomes.append((how, self.clock.seconds))
        elif era.state == "half_open":
            if how in {"failure", "slow"}:
                self.enter("open")
            elif sum(t["how"] == "success" for t in era.tickets) >= self.probes:
                self.enter("closed")

    def fail(self):
        era, now = self.eras[-1], self.clock.seconds
        era.outcomes.append(("failure", now))
        counted = 0
        for position in reversed(range(len(era.outcomes))):
            how, at = era.outcomes[position]
            counted += how in {"failure", "slow"}
            if counted == self.limit:
                successes = sum(how == "success" for how, _ in era.outcomes[position:])
                if at >= now - self.window_s and successes <= 4 * self.limit:
                    self.enter("open")
                return

    def pinged(self, answered):
        state = self.eras[-1].state
        if answered and state in {"open", "half_open"}:
            self.enter("closed")
        elif not answered and state == "closed":
            self.fail()
        elif answered and state == "closed":
            self.eras[-1].outcomes = [each for each in self.eras[-1].outcomes if each[0] != "slow"]

    def isolate(self):
        self.enter("isolated")

    def restore(self):
        if self.eras[-1].state == "isolated":
            self.enter("closed")


def compare(events, seed):
    """Give both the same events; stop at the first difference."""
    chance = random.Random(seed)
    clock = HandClock()
    rules = {
        "failures": chance.choice([1, 3, 5]),
        "hold_s": chance.choice([5.0, 30.0]),
        "probes": chance.choice([1, 2, 7]),
        "window_s": 10.0,
    }
    outcomes = ["success"] * chance.choice([1, 1, 3, 4, 5, 9]) + ["failure", "failure", "slow", "neutral"]
    breaker, reference = Breaker("it", clock, **rules), Reference(clock, **rules)
    tickets = []
    heard = []
    breaker.listen(heard.append)
    for number in range(events):
        what = chance.random()
        if what < 0.35:
            given, wanted = breaker.admit(), reference.admit()
            assert (given is None) == (wanted is None), f"event {number} of seed {seed}: {given} instead of {wanted}"
            if wanted is not None and chance.random() < 0.95:  # else it is lost
                tickets.append((given, wanted))
        elif what < 0.7 and tickets:
            given, wanted = tickets.pop(chance.randrange(len(tickets)))
            how = chance.choice(outcomes)
            breaker.settle(given, how, "for the test")
            reference.settle(wanted, how)
        elif what < 0.96:
            clock.seconds += chance.choice([0.0, 0.01, 0.5, 2.5, 5.0, 11.0])
        elif what < 0.995:
            answered = chance.random() < 0.3
            breaker.pinged(answered=answered)
            reference.pinged(answered)
        elif what < 0.997:
            breaker.isolate("by hand")
            reference.isolate()
        else:
            breaker.restore()
            reference.restore()
        assert breaker.state == reference.era.state, f"event {number} of seed {seed}"
    assert len(heard) == len(reference.eras) - 1


@pytest.mark.parametrize("seed", range(12))
def test_it_follows_its_rules(seed):
    """No event of a long random life is answered differently by the reference."""
    compare(EVENTS // 12, seed)


@pytest.fixture
def clock():
    """A clock that is set by hand."""
    return HandClock()


@pytest.fixture
def breaker(clock):
    """As for PostgreSQL."""
    return Breaker("postgresql", clock, failures=5, hold_s=30.0)


def fail(breaker, times):
    """So many failed calls."""
    for _ in range(times):
        breaker.settle(breaker.admit(), "failure", "ConnectionRefusedError")


def test_five_failures_open_it_for_its_hold_time(breaker, clock):
    """The fifth within ten seconds; then nothing is admitted until the hold is over, and then one."""
    fail(breaker, 4)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert (breaker.state, breaker.admit(), breaker.opens_in_s) == ("open", None, 30.0)
    clock.seconds += 29.9
    assert breaker.admit() is None
    clock.seconds += 0.1
    probe = breaker.admit()
    assert (breaker.state, breaker.admit(), breaker.opens_in_s) == ("half_open", None, 0.0)
    breaker.settle(probe, "success")
    assert breaker.state == "closed"
    assert breaker.reason is None


def test_failures_that_are_far_apart_do_not_open_it(breaker, clock):
    """The window rolls: four are forgotten when the fifth comes too late."""
    for _ in range(50):
        fail(breaker, 1)
        clock.seconds += 2.6
    assert breaker.state == "closed"
    assert breaker.snapshot().failures == 3


def slow(breaker, times):
    """So many calls under way at once that took too long."""
    for ticket in [breaker.admit() for _ in range(times)]:
        breaker.settle(ticket, "slow", "it took 1.2 s")


def test_a_machine_that_is_busy_for_a_second_opens_nothing(breaker):
    """However much of what was under way was slow, and whatever comes later, once a ping has been answered."""
    slow(breaker, 50)
    assert (breaker.state, breaker.snapshot().failures) == ("closed", 5)
    breaker.pinged(answered=True)
    assert breaker.snapshot().failures == 0
    breaker.pinged(answered=False, reason="TimeoutError")
    fail(breaker, 3)
    assert breaker.state == "closed"


@pytest.mark.parametrize("confirmed", [lambda it: it.pinged(answered=False, reason="no"), lambda it: fail(it, 1)])
def test_what_is_slow_and_gives_no_sign_of_life_is_away(breaker, confirmed):
    """A ping that is not answered opens it, or an error of a caller: slowness was counted until then."""
    slow(breaker, 4)
    confirmed(breaker)
    assert breaker.state == "open"


def test_what_works_for_most_stays_closed(breaker):
    """A few failures among many successes, within one window; when the successes end, the next ones open it."""
    for _ in range(50):
        fail(breaker, 1)
        for _ in range(6):
            breaker.settle(breaker.admit(), "success")
    assert (breaker.state, breaker.snapshot().failures) == ("closed", 5)
    fail(breaker, 1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


def test_four_successes_for_each_failure_are_not_enough(breaker):
    """As many as that it has while a fifth of the callers wait in vain: it opens at the fifth failure."""
    for _ in range(4):
        fail(breaker, 1)
        for _ in range(5):
            breaker.settle(breaker.admit(), "success")
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"


def test_cancellations_and_the_requests_own_errors_do_not_count(breaker):
    """Only what says something about the dependency does."""
    for _ in range(1000):
        breaker.settle(breaker.admit(), "neutral")
    assert breaker.state == "closed"


def test_a_cancelled_probe_gives_its_place_to_another(breaker, clock):
    """And so does one that is never heard of again, after the window."""
    fail(breaker, 5)
    clock.seconds += 30
    breaker.settle(breaker.admit(), "neutral")
    lost = breaker.admit()
    assert breaker.admit() is None
    clock.seconds += 10
    probe = breaker.admit()
    breaker.settle(lost, "failure")
    assert breaker.state == "half_open", "what was given up is not asked any more"
    breaker.settle(probe, "failure", "still")
    assert (breaker.state, breaker.reason) == ("open", "still")


def test_what_began_before_it_opened_is_ignored(breaker):
    """A call that comes back late says nothing about now."""
    late = [breaker.admit() for _ in range(6)]
    for ticket in late[:5]:
        breaker.settle(ticket, "failure")
    breaker.pinged(answered=True)
    breaker.settle(late[5], "failure")
    assert breaker.snapshot().failures == 0


def test_a_ping_that_is_answered_closes_it_at_once(breaker, clock):
    """Long before the hold is over; pings that are not answered open it as other failures do."""
    for _ in range(5):
        breaker.pinged(answered=False, reason="silent")
        clock.seconds += 1.5
    assert (breaker.state, breaker.reason) == ("open", "silent")
    breaker.pinged(answered=True)
    assert breaker.state == "closed"


def test_isolation_holds_until_it_is_ended(breaker, clock):
    """Neither time nor pings nor late successes end it."""
    early = breaker.admit()
    breaker.isolate("resilience.mode")
    clock.seconds += 1000
    breaker.pinged(answered=True)
    breaker.settle(early, "success")
    assert (breaker.admit(), breaker.state, breaker.opens_in_s) == (None, "isolated", 30.0)
    breaker.restore()
    assert breaker.admit() is not None


def test_listeners_and_the_log_hear_every_change(breaker, clock, caplog):
    """One line each, with the reason."""
    heard = []
    breaker.listen(heard.append)
    breaker.listen(log_transition)
    with caplog.at_level(logging.INFO, "memfast.breaker"):
        fail(breaker, 5)
        clock.seconds += 30
        breaker.settle(breaker.admit(), "success")
    assert [change[1:3] for change in heard] == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    assert heard[0] == Transition("postgresql", "closed", "open", "ConnectionRefusedError")
    assert len(caplog.records) == 3
    assert "ConnectionRefusedError" in caplog.text
    counted = breaker.snapshot()
    assert (counted.opened, counted.refused, counted.state) == (1, 0, "closed")


@pytest.mark.parametrize("probes", [1, 3])
async def test_two_hundred_callers_at_the_moment_it_is_half_open(clock, probes):
    """Exactly as many as are configured get through, also when some are cancelled on their way."""
    breaker = Breaker("it", clock, failures=1, hold_s=30.0, probes=probes)
    for round_number in range(20):
        chance = random.Random(round_number)
        fail(breaker, 1)
        clock.seconds += 30
        admitted, at_once, most, gate = [], 0, 0, asyncio.Event()

        async def call(chance=chance, admitted=admitted, gate=gate):
            nonlocal at_once, most
            await asyncio.sleep(0)
            while (ticket := breaker.admit()) is None:
                if gate.is_set():
                    return
                await asyncio.sleep(0)
            at_once += 1
            most = max(most, at_once)
            outcome = "neutral"
            try:
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
                await gate.wait()
                outcome = "success"
                admitted.append(ticket)
            finally:
                at_once -= 1
                breaker.settle(ticket, outcome)

        calls = [asyncio.create_task(call()) for _ in range(200)]
        for _ in range(10):
            await asyncio.sleep(0)
            calls[chance.randrange(200)].cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert most == probes
        assert at_once == probes
        gate.set()
        await asyncio.gather(*calls, return_exceptions=True)
        assert breaker.state == "closed"
        assert len([ticket for ticket in admitted if ticket < 0]) == probes
