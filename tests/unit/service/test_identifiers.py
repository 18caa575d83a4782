"""Ids rise, whatever the clock does."""

import secrets
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from memfast.service.identifiers import Identifiers

START = datetime(2025, 1, 1, tzinfo=UTC)


class Hands:
    """A clock that stands where it is put."""

    def __init__(self):
        self.time = START

    def now(self):
        return self.time


def ones(bits):
    """The worst luck: every random bit is set."""
    return (1 << bits) - 1


def zeros(bits):
    """The other worst luck."""
    return 0


@given(st.lists(st.integers(-5_000_000, 5_000_000), max_size=60), st.sampled_from([ones, zeros]))
def test_ids_rise_while_the_clock_stands_jumps_and_steps_back(steps_us, random_bits):
    """Each id is greater than the one before it, as a number and as text."""
    clock = Hands()
    identifiers = Identifiers(clock, random_bits)
    drawn = [identifiers.next()]
    for step in steps_us:
        clock.time += timedelta(microseconds=step)
        drawn.append(identifiers.next())
    assert all(before < after for before, after in pairwise(drawn))
    assert [str(each) for each in drawn] == sorted(str(each) for each in drawn)


def test_the_bits_are_those_of_rfc_9562():
    """Version 7, the variant, and the milliseconds in the first 48 bits."""
    clock = Hands()
    clock.time = START + timedelta(milliseconds=123, microseconds=999)
    for random_bits in (ones, zeros):
        drawn = Identifiers(clock, random_bits).next()
        assert drawn.version == 7
        assert drawn.variant == RFC_4122
        assert drawn.int >> 80 == int(START.timestamp() * 1000) + 123


def test_a_counter_that_is_full_borrows_the_next_millisecond():
    """The clock stands still for more ids than a millisecond has room for."""
    clock = Hands()
    identifiers = Identifiers(clock, ones)
    before = identifiers.next()
    identifiers._counter = (1 << 42) - 2
    last, over = identifiers.next(), identifiers.next()
    assert before < last < over
    assert over.int >> 80 == (last.int >> 80) + 1
    assert (over.version, over.variant) == (7, RFC_4122)
    assert over < identifiers.next()


def test_a_new_millisecond_draws_a_new_counter_with_room_to_count():
    """The highest bit of the counter is left free."""
    clock = Hands()
    asked = []

    def random_bits(bits):
        asked.append(bits)
        return ones(bits)

    identifiers = Identifiers(clock, random_bits)
    identifiers.next()
    assert identifiers._counter >> 41 == 0
    clock.time += timedelta(milliseconds=1)
    identifiers.next()
    assert asked == [41, 64 * 32, 41]


def test_two_makers_with_real_randomness_do_not_collide():
    """32 random bits at the end, 41 at the start of a millisecond."""
    clock = Hands()
    makers = [Identifiers(clock, secrets.randbits) for _ in range(50)]
    drawn = {maker.next() for maker in makers for _ in range(200)}
    assert len(drawn) == 10_000
    assert len({each.int & 0xFFFFFFFF for each in drawn}) > 9_900
    assert all(isinstance(each, UUID) for each in drawn)
