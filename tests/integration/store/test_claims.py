"""Answers under idempotency keys where the connection breaks at COMMIT: they share the fate of the write."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from memfast.claims import AnsweredBeforeError, Claim, Kept, Written
from memfast.errors import StoreUnavailable
from memfast.store.claims import PostgresKeyedAnswers

NOW = datetime(2025, 1, 1, tzinfo=UTC)


def answer(result):
    """The answer to a change or to a forget."""
    return Written(201, result.version if not isinstance(result, list) else result[0].version, b"body", ((b"a", b"b"),))


@pytest.fixture
def claim():
    """A request's."""
    return Claim(key=b"key", request=b"request", expires_at=NOW + timedelta(days=1), answer=answer)


async def test_an_answer_is_there_when_the_commit_was(
    server, database, proxy, open_store, new_create, ids_of, scope, claim
):
    """The server committed, its answer was lost: another request with the key finds what was kept, and writes nothing."""
    async with open_store(server.dsn(database, proxy.folder)) as store:
        proxy.at_commit = "after"
        change = new_create(claim=claim)
        assert (await store.apply([change], now=NOW))[0].status == "created"
        kept = Kept(b"request", Written(201, 1, b"body", ((b"a", b"b"),)))
        assert await PostgresKeyedAnswers(store._pool).find(scope, b"key", now=NOW) == kept
        again, other = await store.apply([new_create(claim=claim), new_create()], now=NOW)
        assert (again.before, again.status, again.scope_version) == (kept, None, 2)
        assert (other.before, other.status, other.version) == (None, "created", 3)
        assert await ids_of(store, scope) == {change.memory.id, other.id}
        assert (await store.user(scope)).memories == 2


async def test_an_answer_is_not_there_when_the_commit_was_not(
    server, database, proxy, open_store, new_create, ids_of, scope, claim
):
    """The server rolled back: the key is free, and the same change can be made."""
    async with open_store(server.dsn(database, proxy.folder)) as store:
        proxy.at_commit = "before"
        change = new_create(claim=claim)
        with pytest.raises(StoreUnavailable, match="rolled back"):
            await store.apply([change], now=NOW)
        assert await PostgresKeyedAnswers(store._pool).find(scope, b"key", now=NOW) is None
        assert (await store.apply([change], now=NOW))[0].status == "created"
        assert await ids_of(store, scope) == {change.memory.id}


async def test_a_forget_whose_commit_is_in_doubt(server, database, proxy, open_store, new_create, ids_of, scope, claim):
    """It is resolved like any write; repeated it erases nothing that came later."""
    async with open_store(server.dsn(database, proxy.folder)) as store:
        await store.apply([new_create()], now=NOW)
        proxy.at_commit = "after"
        receipt = await store.forget(scope, now=NOW, claim=claim)
        assert (receipt.memories, receipt.at) == (1, NOW)
        later = new_create()
        await store.apply([later], now=NOW)
        with pytest.raises(AnsweredBeforeError) as found:
            await store.forget(scope, now=NOW, claim=claim)
        assert found.value.kept.answer == answer(receipt)
        assert await ids_of(store, scope) == {later.memory.id}


async def test_changes_of_one_claim_have_one_answer(store, new_create, ids_of, scope, claim):
    """A batch: its outcomes together make the answer, and together they are found again."""
    asked = []

    def counted(outcomes):
        asked.append(len(outcomes))
        return Written(200, outcomes[-1].scope_version)

    claim = msgspec.structs.replace(claim, answer=counted)
    changes = [new_create(claim=claim) for _ in range(20)]
    await store.apply(changes, now=NOW)
    again = await store.apply([msgspec.structs.replace(change, claim=claim) for change in changes], now=NOW)
    assert asked == [20]
    assert [outcome.before for outcome in again] == [Kept(b"request", Written(200, 20))] * 20
    assert [outcome.scope_version for outcome in again] == list(range(21, 41))
    assert len(await ids_of(store, scope)) == 20
