"""What transactions leave for a copy of the links: replayed, it is what PostgreSQL has."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import msgspec
import numpy as np
import pytest
from changes_world import NOW
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from memfast.links import Link, LinkKey
from memfast.model import Create, Delete, DropLink, Import, Patch, PutLink, StoredMemory, Undelete
from memfast.projection import Mark
from memfast.store.ledger import PostgresLedger
from memfast.store.outbox import decode_changes
from memfast.store.relaying import PostgresOutbox
from memory_world import memory_of
from projection_world import MemoryProjection, stored

IDS = [UUID(int=number) for number in range(1, 5)]
VECTOR = np.eye(8, dtype=np.float32)[0]
TARGETS = st.sampled_from(IDS)
ENDS = st.lists(TARGETS, min_size=2, max_size=2, unique=True)
TYPES = st.sampled_from(["x", "y"])
EXPIRIES = st.sampled_from([None, None, 1, 3])
PUT = st.tuples(st.just("put"), ENDS, TYPES, st.sampled_from([0.1, 1.0]), st.booleans())
CHANGES = st.one_of(
    PUT,
    PUT,
    PUT,
    st.tuples(st.just("drop"), ENDS, TYPES),
    st.tuples(st.just("delete"), TARGETS, st.booleans()),
    st.tuples(st.just("create"), TARGETS, EXPIRIES, st.sampled_from(["error", "update", "ignore"])),
    st.tuples(st.just("patch"), TARGETS, EXPIRIES),
    st.tuples(st.just("undelete"), TARGETS),
)
BATCHES = st.one_of(
    *[st.tuples(st.just("write"), st.lists(CHANGES, min_size=3, max_size=16))] * 8,
    st.tuples(
        st.just("import"),
        st.lists(st.tuples(TARGETS, EXPIRIES), min_size=1, max_size=4, unique_by=lambda each: each[0]),
    ),
    st.tuples(st.just("raise")),
    st.tuples(st.just("forget")),
)
LINKED = ("write", [("put", IDS[:2], "x", 1.0, False), ("put", IDS[1:3], "y", 1.0, True)])


@pytest.fixture
async def outbox(store):
    """The outbox of the store's database, empty and switched off."""
    outbox = PostgresOutbox(store._pool)
    await outbox.switch_off("off")
    while await outbox.empty(1000):
        pass
    return outbox


def change_of(step, scope, now):
    """A step as a change."""
    kind, target, *rest = step
    if kind == "put":
        type_, weight, directed = rest
        fields = {"weight": weight, "directed": directed, "metadata": msgspec.Raw(b"{}")}
        link = Link(from_id=target[0], to_id=target[1], type=type_, created_at=now, version=0, **fields)
        return PutLink(scope=scope, link=link)
    if kind == "drop":
        return DropLink(scope=scope, key=LinkKey(*target, *rest))
    if kind == "delete":
        return Delete(scope=scope, id=target, purge=rest[0])
    if kind == "undelete":
        return Undelete(scope=scope, id=target, since=now - timedelta(days=9))
    expires_at = None if rest[0] is None else now + timedelta(hours=rest[0])
    if kind == "patch":
        return Patch(scope=scope, id=target, text="other", expires_at=expires_at)
    memory = memory_of(now, id=target, user_id=scope.user_id, text="x", expires_at=expires_at)
    return Create(scope=scope, memory=memory, vector=VECTOR, on_conflict=rest[1])


def import_of(target, hours, scope, now):
    """A memory from elsewhere."""
    expires_at = None if hours is None else now + timedelta(hours=hours)
    memory = memory_of(now, id=target, user_id=scope.user_id, text="imported", expires_at=expires_at, version=1)
    row = StoredMemory(id=target, version=1, memory=memory, created_at=now, updated_at=now, vector=VECTOR)
    return Import(scope=scope, row=row, past=[], on_conflict="update")


async def make(store, scope, batch, now):
    """One transaction."""
    kind, *rest = batch
    if kind == "write":
        await store.apply([change_of(step, scope, now) for step in rest[0]], now=now)
    elif kind == "import":
        await store.apply([import_of(*each, scope, now) for each in rest[0]], now=now)
    elif kind == "raise":
        await PostgresLedger(store._pool).raise_version(scope.id)
    else:
        await store.forget(scope, now=now)


async def rows_of(store, scope):
    """The rows that wait of a scope."""
    async with store._pool.connection() as connection:
        return await connection.fetch("SELECT * FROM outbox WHERE scope_id = $1 ORDER BY version", scope.id)


def test_steps_replayed_are_what_the_database_has(open_store, scope):
    """Random transactions of every kind, relayed at once or later: nodes, links and versions are equal."""
    with asyncio.Runner() as runner:
        manager = open_store()
        store = runner.run(manager.__aenter__())
        outbox = PostgresOutbox(store._pool)
        mark = Mark(UUID(int=1), runner.run(outbox.switch_on()))
        projection = MemoryProjection()
        runner.run(projection.begin(mark))
        begun = NOW

        async def check(batches):
            nonlocal begun
            for target in IDS:
                await store.apply([change_of(("create", target, 2 + target.int, "update"), scope, begun)], now=begun)
            for number, (batch, at_once) in enumerate(batches):
                await make(store, scope, batch, begun + timedelta(hours=number))
                if at_once:
                    await relay()
            begun += timedelta(days=1)
            await relay()
            async with store._pool.connection() as connection:
                assert projection.scopes[scope.id].content() == await stored(connection, scope.id)

        async def relay():
            async with outbox.taken(UUID(int=0)) as taken:
                steps = [due.step for due in taken.due]
                assert await projection.apply(mark, steps) == set()
                assert await projection.apply(mark, steps) == set()  # a second time changes nothing
                taken.applied += steps
            assert not await rows_of(store, scope)

        try:

            @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
            @example([(LINKED, True), (("write", [("drop", IDS[:2], "x")]), False)])
            @example([(LINKED, True), (("write", [("delete", IDS[0], False), ("undelete", IDS[0])]), False)])
            @example([(LINKED, True), *[(("raise",), False)] * 3, (("import", [(IDS[0], None)]), False)])
            @example([(LINKED, True), *[(("raise",), False)] * 3, (("write", [("create", IDS[0], 1, "error")]), False)])
            @given(st.lists(st.tuples(BATCHES, st.booleans()), min_size=4, max_size=8))
            def agree(batches):
                runner.run(check(batches))

            agree()
        finally:
            runner.run(outbox.switch_off("off"))
            runner.run(manager.__aexit__(None, None, None))


async def test_nothing_is_written_without_a_copy(store, outbox, scope, new_create):
    """Before it is switched on, and after it was switched off again."""
    await store.apply([new_create(IDS[0])], now=NOW)
    assert not await rows_of(store, scope)
    await outbox.switch_on()
    await store.apply([new_create(IDS[1])], now=NOW)
    assert [row["version"] for row in await rows_of(store, scope)] == [2]
    await outbox.switch_off("off")
    await store.apply([new_create(IDS[2])], now=NOW)
    await PostgresLedger(store._pool).raise_version(scope.id)
    await store.forget(scope, now=NOW)
    assert not await rows_of(store, scope)


async def test_one_row_a_scope_and_transaction(store, outbox, scope, new_create):
    """Also where nothing changed; it says where it begins; texts and names do not stand in it."""
    await outbox.switch_on()
    other = msgspec.structs.replace(scope, id=uuid4(), user_id=f"secret {uuid4()}")
    creates = [new_create(target, text="something secret") for target in IDS[:3]]
    await store.apply([*creates, new_create(IDS[0], other, text="something secret")], now=NOW)
    await store.apply([Delete(scope=scope, id=UUID(int=9)), Patch(scope=scope, id=IDS[0], text="else")], now=NOW)
    rows = await rows_of(store, scope)
    assert [(row["base"], row["version"], len(decode_changes(row["changes"]))) for row in rows] == [
        (0, 3, 3),
        (3, 5, 0),
    ]
    assert len(await rows_of(store, other)) == 1
    assert not any(b"secret" in row["changes"] or b"else" in row["changes"] for row in rows)


async def test_a_writer_under_way_is_waited_for(open_store, scope, new_create):
    """Whoever began before the switch is over when it returns; whoever comes after leaves steps."""
    async with open_store() as store, open_store() as second:
        outbox = PostgresOutbox(second._pool)
        await outbox.switch_off("off")
        async with store._pool.connection("write") as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("UPDATE scopes SET version = version WHERE false")
            switching = asyncio.create_task(outbox.switch_on())
            done, _ = await asyncio.wait({switching}, timeout=0.3)
            assert not done
            await transaction.commit()
            await switching
        await store.apply([new_create(IDS[0])], now=NOW)
        assert len(await rows_of(store, scope)) == 1
        await outbox.switch_off("off")


async def test_a_forgotten_scope_leaves_only_the_order_to_erase_it(store, outbox, scope, new_create):
    """Its steps are erased, counted in the receipt; forgetting once more finds nothing to erase."""
    await outbox.switch_on()
    await store.apply([new_create(IDS[0])], now=NOW)
    await store.apply([new_create(IDS[1])], now=NOW)
    receipt = await store.forget(scope, now=NOW)
    assert receipt.rows["outbox"] == 2
    rows = await rows_of(store, scope)
    assert [(row["forgotten"], row["version"], decode_changes(row["changes"])) for row in rows] == [
        (True, receipt.version, [])
    ]
    assert await store.forget(scope, now=NOW) is None
