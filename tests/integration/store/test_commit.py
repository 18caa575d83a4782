"""A connection that breaks at COMMIT: what the caller is told is what happened."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from memfast.errors import OutcomeUnknown, StoreUnavailable, Unavailable
from memfast.store import commit

NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("size", [1, 4])
async def test_a_commit_whose_answer_is_lost_is_a_success(
    server, database, proxy, open_store, new_create, ids_of, scope, size
):
    """The server committed: the write is acknowledged once and stands once, also with a single connection."""
    async with open_store(server.dsn(database, proxy.folder), size=size) as store:
        proxy.at_commit = "after"
        change = new_create()
        outcome = (await store.apply([change], now=NOW))[0]
        assert (outcome.status, outcome.version) == ("created", 1)
        assert await ids_of(store, scope) == {change.memory.id}
        assert proxy.commits == 1


@pytest.mark.parametrize("size", [1, 4])
async def test_a_commit_that_never_arrived_is_told_as_undone(
    server, database, proxy, open_store, new_create, ids_of, scope, size
):
    """The server rolled back: StoreUnavailable, nothing stands, and the same write can be sent again."""
    async with open_store(server.dsn(database, proxy.folder), size=size) as store:
        proxy.at_commit = "before"
        change = new_create()
        with pytest.raises(StoreUnavailable, match="rolled back"):
            await store.apply([change], now=NOW)
        assert await ids_of(store, scope) == set()
        outcome = (await store.apply([change], now=NOW))[0]
        assert (outcome.status, outcome.version) == ("created", 1)


@pytest.mark.parametrize("size", [1, 4])
async def test_a_silent_commit_is_looked_up_after_the_statements_time(
    server, database, proxy, open_store, new_create, ids_of, scope, size
):
    """No answer within the time of a statement: the fate is asked for on another connection."""
    times = {"command_timeout_s": 0.5, "acquire_timeout_s": 0.5}
    async with open_store(server.dsn(database, proxy.folder), size=size, **times) as store:
        proxy.at_commit = "silent"
        change = new_create()
        assert (await store.apply([change], now=NOW))[0].status == "created"
        assert await ids_of(store, scope) == {change.memory.id}


@pytest.mark.parametrize("size", [1, 4])
async def test_a_withheld_commit_is_told_as_undone(
    server, database, proxy, open_store, new_create, ids_of, scope, size
):
    """The COMMIT is lost on the way: once the broken session is gone, the write is known to be undone."""
    times = {"command_timeout_s": 0.5, "acquire_timeout_s": 0.5}
    async with open_store(server.dsn(database, proxy.folder), size=size, **times) as store:
        proxy.at_commit = "withheld"
        with pytest.raises(StoreUnavailable, match="rolled back"):
            await store.apply([new_create()], now=NOW)
        assert await ids_of(store, scope) == set()


async def test_every_connection_breaking_at_once_is_resolved(
    server, database, proxy, open_store, new_create, ids_of, scope
):
    """The broken connections are given back before the fate is asked for, or nobody could ask."""
    async with open_store(server.dsn(database, proxy.folder), size=4, acquire_timeout_s=5.0) as store:
        changes = [new_create() for _ in range(8)]
        proxy.always = "after"
        outcomes = await asyncio.gather(*(store.apply([change], now=NOW) for change in changes))
        assert sorted(outcome[0].version for outcome in outcomes) == list(range(1, 9))
        assert await ids_of(store, scope) == {change.memory.id for change in changes}


async def test_a_fate_that_cannot_be_learned_is_called_unknown(
    server, database, proxy, open_store, new_create, monkeypatch
):
    """The database is out of reach after the break: neither success nor failure is claimed."""
    monkeypatch.setattr(commit, "_STATUS_POLL_S", (0.0, 0.01, 0.01))
    async with open_store(server.dsn(database, proxy.folder), size=2) as store:
        proxy.at_commit = "after"

        async def apply():
            return await store.apply([new_create()], now=NOW)

        task = asyncio.create_task(apply())
        proxy.accepting = False  # no new connection gets through
        with pytest.raises(OutcomeUnknown):
            await task


async def test_a_backend_ended_by_an_administrator_is_unavailable(
    server, database, store, new_create, ids_of, scope, site
):
    """pg_terminate_backend in the middle of a write: StoreUnavailable, nothing written, and the pool recovers."""
    async with store._pool.connection() as blocker, blocker.transaction():
        first = asyncio.create_task(store.apply([new_create()], now=NOW))
        await first
        await blocker.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(store.apply([new_create()], now=NOW))
        admin = await asyncpg.connect(site.config.postgres.dsn)
        try:
            ended = 0
            async with asyncio.timeout(10):
                while not ended:
                    ended = await admin.fetchval(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
        finally:
            await admin.close()
        with pytest.raises(StoreUnavailable):
            await waiting
    assert len(await ids_of(store, scope)) == 1
    assert (await store.apply([new_create()], now=NOW))[0].status == "created"


async def test_a_forget_whose_answer_is_lost_is_a_success(
    server, database, proxy, open_store, new_create, ids_of, scope
):
    """The same for forgetting."""
    async with open_store(server.dsn(database, proxy.folder), size=1) as store:
        await store.apply([new_create(), new_create()], now=NOW)
        proxy.at_commit = "after"
        receipt = await store.forget(scope, now=NOW)
        assert (receipt.memories, receipt.version) == (2, 3)
        assert await ids_of(store, scope) == set()
        assert await store.user(scope) is None


async def test_no_broken_connection_hides_what_happened(server, database, proxy, open_store, new_create, ids_of, scope):
    """A loop of breaks in every way: success means stored, refusal means not stored, every time."""
    async with open_store(
        server.dsn(database, proxy.folder), size=2, command_timeout_s=0.5, acquire_timeout_s=0.5
    ) as store:
        stood, undone = set(), set()
        for mode in ["after", "before", None, "silent", "before", "after", "withheld", None]:
            proxy.at_commit = mode
            change = new_create()
            try:
                await store.apply([change], now=NOW)
                stood.add(change.memory.id)
            except Unavailable:
                undone.add(change.memory.id)
        assert await ids_of(store, scope) == stood
        assert len(stood) == 5
        assert len(undone) == 3


async def test_a_server_that_fails_to_tell_leaves_it_unknown(
    server, database, proxy, open_store, new_create, monkeypatch
):
    """Asked for the fate, the server answers with an error of its own: that is no word about the write."""
    monkeypatch.setattr(commit, "_STATUS_POLL_S", (0.0, 0.01))
    failing = "SELECT 1 / (length($1::text) - length($1::text)) AS status, $2::timestamptz IS NULL AS same_life"
    monkeypatch.setattr(commit.WRITE, "transaction_status", failing)
    async with open_store(server.dsn(database, proxy.folder), size=2) as store:
        proxy.at_commit = "after"
        with pytest.raises(OutcomeUnknown):
            await store.apply([new_create()], now=NOW)


async def test_a_connection_that_breaks_after_its_commit_hides_nothing(store, new_create, ids_of, scope, monkeypatch):
    """The connection is lost while it is given back: the write was committed and is a success."""
    end, loop, lost = asyncpg.transaction.Transaction.commit, asyncio.get_running_loop(), []

    async def commit(self):
        await end(self)
        # After the pool has begun to take it back, and before it has looked at it.
        loop.call_soon(loop.call_soon, self._connection.terminate)
        lost.append(self._connection)

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", commit)
    change = new_create()
    assert (await store.apply([change], now=NOW))[0].status == "created"
    assert lost[0].is_closed()
    assert await ids_of(store, scope) == {change.memory.id}


@pytest.mark.parametrize("error", [asyncpg.InternalClientError("in progress"), asyncpg.DiskFullError("PANIC")])
async def test_only_the_servers_own_word_is_a_verdict(store, new_create, ids_of, scope, monkeypatch, error):
    """COMMIT fails in the driver, or with the last words of a server that ends: the database is asked what happened."""
    end = asyncpg.transaction.Transaction.commit

    async def commit(self):
        await end(self)
        error.severity_en = "PANIC"
        raise error

    monkeypatch.setattr(asyncpg.transaction.Transaction, "commit", commit)
    change = new_create()
    assert (await store.apply([change], now=NOW))[0].status == "created"
    assert await ids_of(store, scope) == {change.memory.id}
