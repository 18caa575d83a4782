"""No acknowledged write is lost, whatever is killed, cut off, without power or full; and where one is, it is noticed."""

from contextlib import aclosing, contextmanager

import pytest
from bench.durability.cuts import cut_rounds
from bench.durability.full import fill_rounds
from bench.durability.kills import kill_rounds
from bench.durability.planted import Unsafe
from bench.durability.power import power_rounds
from bench.harness.disk import NotPermitted


async def collected(rounds, count=None):
    """All rounds, or the first ones; the generator is closed then."""
    found = []
    async with aclosing(rounds):
        async for each in rounds:
            found.append(each)
            if len(found) == count:
                break
    return found


def sound(rounds):
    """Whether writes were acknowledged in every round and nothing was wrong in any; tells what was."""
    assert not any(each.account.wrong for each in rounds), "\n".join(each.line() for each in rounds)
    return all(each.account.acknowledged for each in rounds)


@contextmanager
def mounting():
    """Skip where nobody may mount."""
    try:
        yield
    except NotPermitted:
        pytest.skip("this system lets nobody mount")


async def test_nothing_is_lost_whatever_is_killed(root, seed, original):
    """Kill -9 of three kinds of process under eight writers, and at last of all of them at once."""
    faults = ("postmaster", "backend", "parent")
    *rounds, last = await collected(kill_rounds(root, rounds=len(faults), seed=seed, template=original, faults=faults))
    assert [each.fault for each in rounds] == list(faults)
    assert sound(rounds)
    assert not last.account.wrong, last.line()


async def test_nothing_is_lost_where_connections_break(root, seed, original):
    """A proxy breaks connections before and after COMMIT reached the server: each caller is told what happened."""
    assert sound(
        await collected(cut_rounds(root, rounds=3, seed=seed, template=original, cuts=("before", "after", None)))
    )


async def test_nothing_is_lost_when_the_power_goes(root, seed, original):
    """The disk loses what was not flushed. And who gives up in the middle leaves no process and no mount behind."""
    with mounting():
        assert sound(await collected(power_rounds(root, rounds=3, seed=seed, template=original), 2))


async def test_a_full_disk_refuses_and_heals(root, seed, original):
    """Writes are answered with 507, reads go on, warm and cold, and room is all it takes: no start of anything."""
    with mounting():
        assert sound(await collected(fill_rounds(root, seed=seed, template=original)))


async def test_a_service_that_acknowledges_too_early_is_caught(root, seed, original):
    """Without waiting for the disk, what is acknowledged last is lost when everything is killed."""
    (found,) = await collected(
        kill_rounds(
            root, rounds=1, seed=seed, template=original, faults=("everything",), unsafe=Unsafe("synchronous_commit")
        )
    )
    assert found.account.wrong


async def test_a_service_that_believes_in_luck_is_caught(root, seed, original):
    """A COMMIT without an answer that is taken for done is found missing."""
    (found,) = await collected(
        cut_rounds(root, rounds=1, seed=seed, template=original, cuts=("before",), unsafe=Unsafe("outcome"))
    )
    assert found.account.lost


async def test_a_server_that_does_not_flush_is_caught(root, seed, original):
    """Without fsync a power cut takes acknowledged writes with it."""
    with mounting():
        (found,) = await collected(power_rounds(root, rounds=1, seed=seed, template=original, unsafe=Unsafe("fsync")))
    assert found.account.lost
