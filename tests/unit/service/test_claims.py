"""Requests with a key, in one worker: one is done at a time, those that wait have its answer."""

import asyncio
from datetime import timedelta

import pytest
from worlds import SetClock, scope

from memfast.claims import AnsweredBeforeError, Kept, Written
from memfast.errors import AnswerErased, KeyInUse, KeyReused, OutcomeUnknown, StoreUnavailable
from memfast.service.claims import Claims

ADA, BOB = scope(1), scope(2)
DAY = timedelta(days=1)


class Answers:
    """`KeyedAnswers` in a dictionary."""

    def __init__(self):
        self.kept = {}
        self.asked = 0

    async def find(self, scope, key, *, now):
        self.asked += 1
        await asyncio.sleep(0)
        return self.kept.get((scope.id, key))


class Writes:
    """What a request does: it waits for the gate, then keeps its answer, or fails as it is told."""

    def __init__(self, answers):
        self.answers = answers
        self.fates = []
        self.done = []
        self.claims = []
        self.gate = asyncio.Event()
        self.gate.set()

    def of(self, owner):
        async def work(claim):
            self.claims.append(claim)
            await self.gate.wait()
            fate = self.fates.pop(0) if self.fates else None
            if fate is not None:
                raise fate
            self.done.append(owner)
            self.answers.kept[owner.id, claim.key] = Kept(claim.request, claim.answer(len(self.done)))
            return len(self.done)

        return work


def written(number):
    """An answer."""
    return Written(201, number, b"%d" % number)


@pytest.fixture
def answers():
    """What was answered before."""
    return Answers()


@pytest.fixture
def writes(answers):
    """What is done."""
    return Writes(answers)


@pytest.fixture
def send(answers, writes):
    """Function: send a request of a user with a key."""
    claims = Claims(answers, SetClock(), DAY)

    def sent(owner=ADA, key=b"key", request=b"request"):
        return asyncio.create_task(claims.once(owner, key, request, writes.of(owner), written))

    sent.claims = claims
    return sent


async def settled():
    """Let everything happen that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_one_is_done_and_the_others_have_its_answer(send, writes, answers):
    """Twenty at once: one look-up, one write."""
    writes.gate.clear()
    tasks = [send() for _ in range(20)]
    await settled()
    writes.gate.set()
    results = [await task for task in tasks]
    assert results == [(written(1), False)] + [(written(1), True)] * 19
    assert (answers.asked, writes.done) == (1, [ADA])
    assert not send.claims._under_way


async def test_what_was_answered_before_is_not_done(send, writes):
    """By whichever process: the store knows; the claim says until when."""
    assert await send() == (written(1), False)
    assert await send() == (written(1), True)
    assert writes.done == [ADA]
    (claim,) = writes.claims
    assert claim.expires_at == SetClock().now() + DAY
    assert claim.key != b"key"


async def test_users_and_keys_do_not_wait_for_each_other(send, writes):
    """Only the same key of the same user does."""
    writes.gate.clear()
    tasks = [send(ADA), send(BOB), send(ADA, b"other")]
    await settled()
    assert len(writes.claims) == 3
    writes.gate.set()
    assert [replayed for _, replayed in [await task for task in tasks]] == [False] * 3


async def test_another_request_with_the_key_is_refused(send, writes):
    """Also one that waited for the first."""
    writes.gate.clear()
    first = send()
    await settled()
    other = send(request=b"other")
    await settled()
    writes.gate.set()
    await first
    with pytest.raises(KeyReused):
        await other
    with pytest.raises(KeyReused):
        await send(request=b"other")
    assert writes.done == [ADA]


async def test_one_of_those_that_waited_follows_one_that_failed(send, writes):
    """Each in its turn until one succeeds; every one is told what became of its own."""
    writes.gate.clear()
    writes.fates = [StoreUnavailable("away"), StoreUnavailable("away")]
    tasks = [send() for _ in range(5)]
    await settled()
    writes.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [StoreUnavailable] * 2
    assert sorted(results[2:], key=lambda result: result[1]) == [(written(1), False)] + [(written(1), True)] * 2
    assert writes.done == [ADA]


async def test_whose_time_is_up_while_it_waits(send, writes):
    """Is told that the key is in use; the first and the others are not touched."""
    writes.gate.clear()
    first, hurried, patient = send(), send(), send()
    await settled()
    hurried.cancel()
    with pytest.raises(KeyInUse, match="same key"):
        await hurried
    writes.gate.set()
    assert await first == (written(1), False)
    assert await patient == (written(1), True)


async def test_the_first_is_cancelled(send, writes):
    """Those that wait go on without it."""
    writes.gate.clear()
    first, second = send(), send()
    await settled()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    writes.gate.set()
    assert await second == (written(1), False)


async def test_a_transaction_that_found_the_key_taken(send, writes):
    """Another process was faster: its answer is the answer, for those that wait too."""
    writes.gate.clear()
    writes.fates = [AnsweredBeforeError(Kept(b"request", written(7)))]
    first, second = send(), send()
    await settled()
    writes.gate.set()
    assert [await first, await second] == [(written(7), True)] * 2
    assert writes.done == []


async def test_an_unknown_outcome_says_what_to_do(send, writes):
    """The key makes a repetition safe."""
    writes.fates = [OutcomeUnknown("read it back")]
    with pytest.raises(OutcomeUnknown, match="again with the same key"):
        await send()
    assert await send() == (written(1), False)


async def test_an_answer_that_was_erased(send, writes, answers):
    """The key is taken, whatever the request says."""
    await send()
    answers.kept = {place: Kept(None, None) for place in answers.kept}
    for request in (b"request", b"other"):
        with pytest.raises(AnswerErased):
            await send(request=request)
    assert writes.done == [ADA]
