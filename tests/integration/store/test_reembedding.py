"""Moving to another model: what is written meanwhile is there after it, and no generation is used but the current."""

import asyncio
import contextlib
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import groupby
from uuid import UUID, uuid4

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from memfast.errors import CommandFailed, EmbedderChanged, EmbedderUnavailable
from memfast.model import Delete, Import, Patch, Scope, StoredMemory, Undelete, derive_scope_id
from memfast.resilience.clock import SystemClock
from memfast.resilience.retry import Budget, Retry
from memfast.service import reembed
from memfast.service.reembed import Reembed
from memfast.store.codecs import decode_vector
from memfast.store.forget import OWNED_TABLES
from memfast.store.pool import connect
from memfast.store.queries import FORGET, REEMBED
from memfast.store.reembedding import PostgresReembedding, read_generations
from memfast.store.writes import write_changes

DIMENSIONS = 5
NOW = datetime(2025, 1, 1, tzinfo=UTC)
EARLIER = datetime(2024, 1, 1, tzinfo=UTC)


def vector_of(text):
    """What the model to move to makes of a text, float32 (DIMENSIONS,), norm 1."""
    seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class Model:
    """A model that lets somebody do something before each answer: `meanwhile` is given the number of the call."""

    model, dimensions = "new", DIMENSIONS

    def __init__(self, meanwhile=None):
        self.calls = 0
        self.texts = []
        self._meanwhile = meanwhile

    async def embed(self, texts):
        self.calls += 1
        if self._meanwhile is not None:
            await self._meanwhile(self.calls)
        self.texts += texts
        return np.array([vector_of(text) for text in texts], dtype=np.float32)

    async def check(self):
        """It is there."""


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest.fixture
def site(server, make_site):
    """A database of a test's own."""
    return make_site(server.new_database(), embedding__provider="none", embedding__dimensions=8)


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of four memories, of which ten may be left to the end."""
    monkeypatch.setattr(reembed, "PAGE_ROWS", 4)
    monkeypatch.setattr(reembed, "LAST_ROWS", 10)


@pytest_asyncio.fixture
async def connection(site):
    """A connection of a command."""
    opened = await connect({"dsn": site.config.postgres.dsn}, connect_timeout_s=5.0, command_timeout_s=60.0)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def mover(connection):
    """Function: a move to a model, with what it told of its progress in `told`."""

    async def make(model):
        retry = Retry(Budget(), SystemClock(), asyncio.sleep, lambda: 0.0, attempts=1)
        told = []
        made = Reembed(
            await PostgresReembedding.claimed(connection),
            model,
            b'{"provider":"test"}',
            retry,
            SystemClock(),
            lambda *each: told.append(each),
            lambda: None,
        )
        made.told = told
        return made

    return make


@pytest.fixture
def users(site):
    """Five users."""
    names = [f"user {number}" for number in range(5)]
    return [Scope(derive_scope_id(site.prepared.secret, "default", name), "default", name) for name in names]


@pytest.fixture
def fill(users, new_create):
    """Function: six memories of each user."""

    async def filled(store):
        creates = [new_create(owner=user, text=f"{user.user_id} {row}") for user in users for row in range(6)]
        await store.apply(creates, now=NOW)
        return creates

    return filled


async def vectors_of(connection, generation):
    """Every vector of a generation by the id of its memory."""
    rows = await connection.fetch("SELECT id, embedding FROM memory_vectors WHERE generation = $1", generation)
    return {row["id"]: decode_vector(row["embedding"]).tolist() for row in rows}


async def expected(connection):
    """The vector that every live memory must have."""
    rows = await connection.fetch("SELECT id, text FROM memories WHERE deleted_at IS NULL")
    return {row["id"]: vector_of(row["text"]).tolist() for row in rows}


async def require_moved(connection):
    """Every memory has its vector by the new model, and nothing else is there."""
    assert await vectors_of(connection, 2) == await expected(connection)
    assert await connection.fetchval("SELECT count(*) FROM memory_vectors WHERE generation <> 2") == 0
    assert await connection.fetchval("SELECT count(*) FROM history WHERE generation <> 2") == 0
    assert await connection.fetchval("SELECT count(*) FROM reembedded WHERE generation <> 2") == 0
    wrong = """SELECT count(*) FROM memory_vectors v JOIN memories m USING (scope_id, id)
               WHERE v.expires_at IS DISTINCT FROM m.expires_at"""
    assert await connection.fetchval(wrong) == 0


def writes(store, users, creates, new_create):
    """What writers do before each answer of the model: every kind of write, to memories that are done and others."""

    async def write(call):
        user, mine = users[call % 5], [each for each in creates if each.scope == users[call % 5]]
        changed, moved, gone, back = (mine[(call + step) % 6] for step in range(4))
        vector = changed.vector
        await store.apply(
            [
                new_create(owner=user, text=f"written before answer {call}"),
                Patch(scope=user, id=changed.memory.id, text=f"changed before answer {call}", vector=vector),
                Patch(scope=user, id=moved.memory.id, expires_at=datetime(2030, 1, 1, tzinfo=UTC)),
                Delete(scope=user, id=gone.memory.id),
                Delete(scope=user, id=back.memory.id),
                Undelete(scope=user, id=back.memory.id, since=EARLIER),
            ],
            now=NOW,
        )
        if call == 3:
            await store.forget(users[4], now=NOW)

    return write


@pytest.mark.usefixtures("small_pages")
async def test_what_is_written_meanwhile_is_there_after_the_switch(store, connection, mover, users, fill, new_create):
    """Creates, changes of text and expiry, deletes, undeletes and a forgotten user, between read and write of pages."""
    creates = await fill(store)
    write = writes(store, users, creates, new_create)
    done = asyncio.Event()

    async def meanwhile(call):
        if call <= 12:
            await write(call)
        else:
            done.set()

    move = await mover(Model(meanwhile))
    assert await move.run(from_text=True)
    assert done.is_set()
    await require_moved(connection)
    assert [what for what, _ in groupby(move.told, lambda told: told[0])] == ["embedding", "erasing"]


@pytest.mark.usefixtures("small_pages")
async def test_what_is_written_before_writers_stop_is_in_the_switch(store, connection, mover, fill, new_create, users):
    """A write that ends while the writers are being stopped has its vector too."""
    await fill(store)
    move = await mover(Model())
    database, stopped = move._database, move._database.stopped_writers

    @contextlib.asynccontextmanager
    async def late(timeout_s):
        await store.apply([new_create(owner=users[0], text="the last one")], now=NOW)
        async with stopped(timeout_s):
            yield

    database.stopped_writers = late
    assert await move.run(from_text=True)
    await require_moved(connection)
    assert len(await vectors_of(connection, 2)) == 31


async def test_a_memory_that_is_deleted_while_its_vector_is_written_gets_none(store, connection, fill, users):
    """The delete has not committed yet when the vector is to be written: its end is waited for."""
    creates = await fill(store)
    database = await PostgresReembedding.claimed(connection)
    generation = await database.register("new", DIMENSIONS, b"{}")
    page = await database.behind(generation, UUID(int=0), 100)
    gone = creates[0].memory.id
    async with store._pool.connection("write") as deleting:
        transaction = deleting.transaction()
        await transaction.start()
        delete = Delete(scope=users[0], id=gone)
        await write_changes(deleting, [delete], lambda _row: None, generation=1, now=NOW)
        vectors = np.array([vector_of(row.text) for row in page.rows])
        put = asyncio.create_task(database.put(generation, page, vectors))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not put.done() and not await deleting.fetchval(waits):
            await asyncio.sleep(0)
        await transaction.commit()
    await put
    assert await vectors_of(connection, generation) == await expected(connection)
    assert len(await vectors_of(connection, generation)) == 29


async def test_a_user_who_is_forgotten_during_the_switch_stays_forgotten(store, connection, mover, fill, users):
    """The forgetting has erased and not committed yet: the switch waits for it, or gives up and comes again."""
    await fill(store)
    move = await mover(Model())
    statements = list(OWNED_TABLES.values())
    async with store._pool.connection("write") as forgetting:
        transaction = forgetting.transaction()
        await transaction.start()
        await forgetting.fetchrow(FORGET.lock_named, users[0].id)
        for statement in statements:
            await forgetting.execute(statement, users[0].id)
        database = move._database
        generation = await database.register("new", DIMENSIONS, b"{}")
        moving = asyncio.create_task(move._switched(generation))
        while not moving.done() and not await forgetting.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0)
        assert not moving.done()
        await forgetting.fetchrow(FORGET.forget_scope, users[0].id, NOW)
        await transaction.commit()
    assert await moving or await move._switched(generation)
    assert await vectors_of(connection, generation) == await expected(connection)
    assert await connection.fetchval("SELECT count(*) FROM reembedded WHERE scope_id = $1", users[0].id) == 0


async def test_a_user_who_is_forgotten_while_a_page_is_embedded_leaves_nothing(store, connection, fill, users):
    """Not even how far the move had come with them; and nothing is done about them any more."""
    await fill(store)
    database = await PostgresReembedding.claimed(connection)
    generation = await database.register("new", DIMENSIONS, b"{}")
    page = await database.behind(generation, UUID(int=0), 100)
    for user in users:
        await store.forget(user, now=NOW)
    await database.put(generation, page, np.array([vector_of(row.text) for row in page.rows]))
    assert await vectors_of(connection, generation) == {}
    assert await connection.fetchval("SELECT count(*) FROM reembedded") == 0
    assert await database.behind(generation, UUID(int=0), 100) is None


@pytest.mark.usefixtures("small_pages")
async def test_a_move_goes_on_where_the_model_failed(store, connection, mover, fill):
    """It fails at every second answer: each run does at least one page, and none of it twice."""
    await fill(store)
    runs = 0
    texts = []
    while True:
        runs += 1

        async def fail(call):
            if call > 1:
                raise EmbedderUnavailable("away")

        model = Model(fail)
        move = await mover(model)
        try:
            assert await move.run(from_text=True)
            break
        except EmbedderUnavailable:
            assert runs < 20
        finally:
            texts += model.texts
        assert [each.state for each, _ in await read_generations(connection)] == ["current", "building"]
    assert len(texts) == len(set(texts)) == 30
    await require_moved(connection)


@pytest.mark.usefixtures("small_pages")
async def test_a_clean_up_goes_on_where_it_was_killed(store, connection, mover, fill, users, monkeypatch):
    """After the switch, with some of the old vectors gone: the same command erases the rest, and of history too."""
    monkeypatch.setattr(reembed, "ERASED_ROWS", 4)
    creates = await fill(store)
    await store.apply([Delete(scope=users[0], id=creates[0].memory.id)], now=NOW)
    steps = []

    def killed(what, done, _total):
        steps.append(done)
        if what == "erasing" and done > 8:
            raise KeyboardInterrupt

    move = await mover(Model())
    move._progress = killed
    with pytest.raises(KeyboardInterrupt):
        await move.run(from_text=True)
    assert len(await vectors_of(connection, 1)) == 17
    assert await vectors_of(connection, 2) == await expected(connection)
    again = await mover(Model())
    assert not await again.run(from_text=True)
    await require_moved(connection)


@pytest.mark.usefixtures("small_pages")
async def test_a_roll_back_leaves_nothing(store, connection, mover, fill, users):
    """Also what a killed roll-back left is taken back by the next one."""
    await fill(store)
    before = await vectors_of(connection, 1)

    async def fail(call):
        if call > 3:
            raise EmbedderUnavailable("away")

    move = await mover(Model(fail))
    with pytest.raises(EmbedderUnavailable):
        await move.run(from_text=True)
    assert len(await vectors_of(connection, 2)) == 12
    await connection.execute(REEMBED.abort)  # and killed before anything was erased
    assert not await move.roll_back()
    assert await vectors_of(connection, 2) == {}
    assert await vectors_of(connection, 1) == before
    assert [each.number for each, _ in await read_generations(connection)] == [1]
    assert await connection.fetchval("SELECT count(*) FROM reembedded") == 0
    assert (await store.load(users[0])).version == 6


async def test_a_writer_that_waits_for_the_switch_is_refused(store, connection, mover, fill, users, new_create):
    """Changes and imports of the old generation, prepared before, meet the new one: nothing of them is written."""
    creates = await fill(store)
    for _ in range(7):  # from the sixth on the server uses a generic plan
        await store.apply([new_create(owner=users[0], text="before")], now=NOW)
    row = StoredMemory(**_stored(creates[0], uuid4()))
    imported = Import(scope=users[1], row=row, past=[])
    before = await connection.fetchval("SELECT sum(version) FROM scopes")
    database = await PostgresReembedding.claimed(connection)
    generation = await database.register("new", DIMENSIONS, b"{}")
    async with database.stopped_writers(3.0):
        waiting = [
            asyncio.create_task(store.apply([change], now=NOW))
            for change in (new_create(owner=users[0]), imported, Delete(scope=users[2], id=creates[12].memory.id))
        ]
        while await _waiting(connection) < 3:
            assert not any(task.done() for task in waiting)
        await database.promote(generation)
    for refused in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(refused, EmbedderChanged), refused
        assert not refused.begun
    assert await connection.fetchval("SELECT sum(version) FROM scopes") == before
    assert await vectors_of(connection, generation) == {}


async def test_nothing_reads_vectors_of_another_generation(store, connection, fill, users):
    """Searches, loads, deltas and exports, of users that are known and others."""
    await fill(store)
    database = await PostgresReembedding.claimed(connection)
    generation = await database.register("new", DIMENSIONS, b"{}")
    vector = np.zeros(8, np.float32)
    reads = {
        "nearest": lambda: store.nearest(users[0], vector, 5, now=NOW),
        "load": lambda: store.load(users[0]),
        "changes": lambda: store.changes_since(users[0], 0),
        "export": lambda: anext(store.export(users[0], now=NOW, since=EARLIER)),
    }
    for read in reads.values():
        await read()
    async with database.stopped_writers(3.0):
        await database.promote(generation)
    for name, read in reads.items():
        with pytest.raises(EmbedderChanged):
            assert not await read(), name


async def test_writers_are_stopped_for_a_bounded_time(store, connection, fill, users, new_create):
    """A command that hangs in the middle of the switch is ended by the server; writers go on with the old model."""
    await fill(store)
    database = await PostgresReembedding.claimed(connection)
    generation = await database.register("new", DIMENSIONS, b"{}")
    with pytest.raises(Exception) as ended:  # noqa: PT012 - it is told by whatever comes next
        async with database.stopped_writers(0.2):
            await store.apply([new_create(owner=users[0])], now=NOW)
            await database.promote(generation)
    assert type(ended.value).__name__ in {"StoreUnavailable", "DeadlineExceeded"}
    assert len((await store.load(users[0])).memories) == 7


async def test_one_move_at_a_time(connection, site):
    """A second command is told so, and may begin when the first has ended."""
    await PostgresReembedding.claimed(connection)
    other = await connect({"dsn": site.config.postgres.dsn}, connect_timeout_s=5.0, command_timeout_s=60.0)
    try:
        with pytest.raises(CommandFailed, match="another"):
            await PostgresReembedding.claimed(other)
        await connection.close()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(CommandFailed):
                    await PostgresReembedding.claimed(other)
                    break
    finally:
        await other.close()


async def test_vectors_of_clients_are_replaced_only_when_asked(store, mover, fill):
    """Their number is told, and the flag that allows it; nothing was begun."""
    await fill(store)
    move = await mover(Model())
    with pytest.raises(CommandFailed, match=r"all 30 memories .* --from-text"):
        await move.run(from_text=False)
    assert [each.state for each in await move._database.generations()] == ["current"]


async def test_writers_that_are_faster_than_the_model_are_told_of(store, mover, fill, users, new_create, monkeypatch):
    """Rounds are bounded; what was made is kept, and the next run goes on."""
    monkeypatch.setattr(reembed, "PAGE_ROWS", 100)
    monkeypatch.setattr(reembed, "LAST_ROWS", 10)
    monkeypatch.setattr(reembed, "ROUNDS_MAX", 3)
    await fill(store)

    async def write(_call):
        await store.apply([new_create(owner=user) for user in users for _ in range(6)], now=NOW)

    model = Model(write)
    move = await mover(model)
    with pytest.raises(CommandFailed, match="written faster"):
        await move.run(from_text=True)
    assert model.calls == 3


async def _waiting(connection):
    """How many sessions wait for a lock."""
    return await connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'scopes'::regclass"
    )


def _stored(create, target):
    memory = create.memory
    fields = {"id": target, "version": 1, "vector": create.vector, "created_at": NOW, "updated_at": NOW}
    return fields | {"memory": _renamed(memory, target)}


def _renamed(memory, target):
    return msgspec.structs.replace(memory, id=target, version=1)
