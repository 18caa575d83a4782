"""What the account of the writers calls wrong, and what not."""

import pytest
from bench.durability.journal import Item, Journal, State, body_of

USER = "ada"
IDS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(3)]


def found(item_id, number, version):
    """A memory as the service lists it."""
    return {"id": item_id, "version": version, **body_of(item_id, number)}


@pytest.fixture
def journal():
    """Of a batch of two acknowledged memories, at versions 1 and 2."""
    journal = Journal()
    journal.batch = [Item(USER, item_id) for item_id in IDS[:2]]
    journal.meant(journal.batch, [State(1), State(1)])
    journal.acknowledged(journal.batch, [1, 2], 2)
    return journal


def judged(journal, memories, *, version=2, searched=None):
    """The faults that are found, by kind."""
    journal.judge(USER, version, memories, {memory["id"] for memory in memories} if searched is None else searched)
    account = journal.account
    kinds = {kind: getattr(account, kind) for kind in ("lost", "undead", "half", "twice", "backwards")}
    assert account.wrong == sum(kinds.values()) == len(account.told)
    return {kind: count for kind, count in kinds.items() if count}


def test_what_was_acknowledged_and_stands_is_right(journal):
    """Both memories are there, as they were acknowledged."""
    assert judged(journal, [found(IDS[0], 1, 1), found(IDS[1], 1, 2)]) == {}
    assert journal.account.acknowledged == 2


@pytest.mark.parametrize(
    ("memories", "faults"),
    [
        ([found(IDS[0], 1, 1)], {"lost": 1, "half": 0}),
        ([found(IDS[0], 1, 1), found(IDS[1], 7, 2)], {"lost": 1}),
        ([found(IDS[0], 1, 1), found(IDS[1], 1, 9)], {"lost": 1}),
        ([found(IDS[0], 1, 1), found(IDS[1], 1, 2), found(IDS[1], 1, 2)], {"twice": 1}),
        ([found(IDS[0], 1, 1), found(IDS[1], 1, 2), found(IDS[2], 1, 3)], {"undead": 1}),
        ([found(IDS[0], 1, 1), {**found(IDS[1], 1, 2), "tags": ["n7"]}], {"half": 1, "lost": 1}),
    ],
    ids=["gone", "other content", "other version", "two rows", "nobody wrote it", "mixed content"],
)
def test_what_is_wrong_is_named(journal, memories, faults):
    """Each fault by its kind."""
    assert judged(journal, memories) == {kind: count for kind, count in faults.items() if count}


def test_a_version_that_went_back_is_wrong(journal):
    """The user's version is below one that was told."""
    assert judged(journal, [found(IDS[0], 1, 1), found(IDS[1], 1, 2)], version=1) == {"backwards": 1}


def test_a_memory_without_its_vector_is_half_there(journal):
    """The list has it, a search does not."""
    assert judged(journal, [found(IDS[0], 1, 1), found(IDS[1], 1, 2)], searched={IDS[0]}) == {"half": 1}


def test_a_deleted_memory_that_is_back_is_lost_work(journal):
    """An acknowledged delete that did not stay."""
    item = journal.batch[0]
    journal.meant([item], [State(None)])
    journal.acknowledged([item], [None], 3)
    assert judged(journal, [found(IDS[0], 1, 1), found(IDS[1], 1, 2)], version=3) == {"lost": 1}


@pytest.mark.parametrize(("number", "version", "happened"), [(1, 1, 0), (2, 3, 1)])
def test_what_nobody_answered_may_stand_either_way(journal, number, version, happened):
    """The state before, or the one that was meant; what is found counts from then on."""
    item = journal.batch[0]
    journal.meant([item], [State(2)])
    journal.unanswered([item])
    memories = [found(IDS[0], number, version), found(IDS[1], 1, 2)]
    assert judged(journal, memories, version=3) == {}
    assert journal.account.made == happened
    assert judged(journal, memories, version=3) == {}
    assert judged(journal, [memories[1]], version=3) == {"lost": 1}


def test_a_refused_write_that_happened_is_undead(journal):
    """The answer said that nothing was written."""
    item = journal.batch[0]
    journal.meant([item], [State(2)])
    journal.refused([item], 503, "away")
    assert judged(journal, [found(IDS[0], 2, 3), found(IDS[1], 1, 2)], version=3) == {"undead": 1}


def test_a_memory_that_the_service_denies_is_lost(journal):
    """404 for what was acknowledged."""
    item = journal.batch[0]
    journal.meant([item], [State(2)])
    journal.refused([item], 404, "not found")
    assert journal.account.lost == 1


def test_an_unanswered_batch_is_whole_or_absent():
    """One of two is half."""
    for there, faults in (([], {}), ([0, 1], {}), ([1], {"half": 1})):
        journal = Journal()
        items = [Item(USER, item_id) for item_id in IDS[:2]]
        journal.meant(items, [State(1), State(1)])
        journal.unanswered(items)
        assert judged(journal, [found(IDS[row], 1, row + 1) for row in there]) == faults


def test_a_version_that_is_given_twice_is_wrong(journal):
    """Two writes of one user were told the same version."""
    journal.meant([journal.batch[0]], [State(2)])
    journal.acknowledged([journal.batch[0]], [2], 3)
    assert journal.account.twice == 1


def test_what_is_told_after_the_power_went_was_not_told(journal):
    """A machine without power acknowledges nothing."""
    journal.closed = True
    journal.meant([journal.batch[0]], [State(2)])
    journal.acknowledged([journal.batch[0]], [3], 3)
    assert (journal.account.acknowledged, journal.account.unanswered) == (2, 1)
    assert judged(journal, [found(IDS[0], 1, 1), found(IDS[1], 1, 2)]) == {}
