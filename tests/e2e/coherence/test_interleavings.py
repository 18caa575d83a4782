"""Every order of events in which a copy could outlive a write, played on purpose.

Then copies of the code with one fault each: each must be caught by the play that was made for it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import msgspec
import pytest
from bench.coherence.driver import Stale
from bench.coherence.model import Batch, Delete, Forget, List, Patch, Put, Undelete
from bench.coherence.words import Words
from pair import Pair, PausingStore, Unwatched, install, reached

from memfast.index.postings import Postings
from memfast.service import commits
from memfast.service.answers import Answers
from memfast.service.coherence import Epochs
from memfast.service.commits import Commits
from memfast.service.warm import Warm

pytestmark = pytest.mark.filterwarnings("ignore:Use of asynccontextmanager:DeprecationWarning")

WRITES = {
    "create": lambda pair: pair.put(),
    "update": lambda pair: pair.again(1, "update"),
    "ignore": lambda pair: pair.again(1, "ignore"),
    "refused": lambda pair: pair.again(1, "error"),
    "patch": lambda pair: pair.patch(2),
    "delete": lambda pair: pair.delete(3),
    "purge": lambda pair: Delete(pair.user_id, pair.ids[3], purge=True),
    "undelete refused": lambda pair: Undelete(pair.user_id, pair.ids[3]),
    "batch": lambda pair: Batch(pair.user_id, (pair.put(7), pair.put(8), pair.again(0, "update"))),
    "forget": lambda pair: Forget(pair.user_id),
}


# Plays


async def acknowledged(pair, *, write="patch", warm=True):
    """Both workers hold copies; one writes; from the acknowledgement on both show it."""
    async with pair(warm=warm) as both:
        await both.copied()
        await both.write(both.a, WRITES[write](both))
        await both.right()
        await both.write(both.b, WRITES["create"](both))
        await both.right()


async def brought_back(pair, *, warm=True):
    """Deleted by one worker, brought back by the other, purged by the first: at every step both show it."""
    async with pair(warm=warm) as both:
        for place, other in ((both.a, both.b), (both.b, both.a)):
            await both.copied()
            await both.write(place, both.delete(3))
            await both.copied()
            await both.write(other, Undelete(both.user_id, both.ids[3]))
            await both.right()
        await both.copied()
        await both.write(both.a, Delete(both.user_id, both.ids[3], purge=True))
        await both.right()
        await both.write(both.b, Undelete(both.user_id, both.ids[3]))
        await both.right()


async def removed(pair):
    """One worker removes what has expired: the other follows, and both name the version that this took."""
    async with pair(warm=True) as both:
        target = both.ids[-1]
        await both.copied()
        end = datetime.now(UTC) + timedelta(milliseconds=100)
        await both.write(both.a, Patch(both.user_id, target, (("expires_at", end),)))
        async with asyncio.timeout(10):
            while datetime.now(UTC) < end:
                await asyncio.sleep(0.02)
        await both.copied()
        await both.a.services.sweeps.expire()
        await both.a.services.background.join()
        items = dict(both.state.items)
        expired = {target: items.pop(target)}
        both.state = both.state.changed(both.state.version + 1, items=items, buried=expired)
        await both.right()
        await both.write(both.b, Undelete(both.user_id, target))
        await both.right()


async def fill(pair, *, kind="search", store_call="nearest"):
    """A read has its snapshot when a write is acknowledged: what it fills must not be shown after that."""
    async with pair() as both:
        ask = next(ask for ask in both.asks if type(ask).__name__.lower() == kind)
        with both.b.held(store_call) as pause:
            read = both.later(both.b, ask)
            await reached(pause)
            await both.write(both.a, both.patch())
        await read
        await both.right()


async def load(pair):
    """A shard is being loaded when a write is acknowledged."""
    async with pair() as both:
        with both.b.held("load") as pause:
            loading = both.b.services.warm.load(both.b.scope(both.user_id))
            await reached(pause)
            await both.write(both.a, both.delete())
        assert await loading
        await both.right()


async def catch_up(pair):
    """A shard is being brought up to one write when the next is acknowledged."""
    async with pair(warm=True) as both:
        await both.write(both.a, both.patch())
        with both.b.held("changes_since") as pause:
            read = both.later(both.b, both.asks[0])
            await reached(pause)
            await both.write(both.a, both.delete(1))
        await read
        await both.right()


async def before_commit(pair, *, warm=True):
    """Reads come between the begin of a write and its COMMIT."""
    async with pair(warm=warm) as both:
        await both.copied()
        operation = both.patch()
        with both.a.held("before commit") as pause:
            write = asyncio.create_task(both.a.ask(*operation.request()))
            await reached(pause)
            await both.right()
        assert (await write).status == 200
        both.state, _ = operation.applied(both.state, datetime.now(UTC))
        await both.right()


async def after_commit(pair):
    """Reads come between COMMIT and the acknowledgement: they may show either state, those after it only the new."""
    async with pair(warm=True) as both:
        await both.copied()
        operation = both.patch()
        with both.a.held("after commit") as pause:
            write = asyncio.create_task(both.a.ask(*operation.request()))
            await reached(pause)
            for ask in both.asks:
                await asyncio.gather(both.later(both.a, ask), both.later(both.b, ask))
        assert (await write).status == 200
        both.state, _ = operation.applied(both.state, datetime.now(UTC))
        await both.right()


async def grouped(pair):
    """Writes of several users share a flush: each is acknowledged with its own, and every copy of each is void."""
    async with pair(warm=True) as both:
        await both.copied()
        counts = both.a.services.writer.snapshot
        groups = both.a.services.writer._groups
        groups._limits = msgspec.structs.replace(
            groups._limits, wait_s=60.0
        )  # a busy machine sends none before its time
        before = counts()
        operations = [both.patch(1), both.delete(2), both.put()]
        with both.a.held("before commit") as pause:
            other = asyncio.create_task(both.a.ask(*Put(f"{both.user_id}, other", both.item(8)).request()))
            await reached(pause)
            others = asyncio.create_task(both.a.ask(*Put(f"{both.user_id}, another", both.item(8)).request()))
            await asyncio.sleep(0)
            writes = [asyncio.create_task(both.a.ask(*operation.request())) for operation in operations]
            while counts().changes + counts().waiting_interactive < before.changes + len(writes) + 2:
                await asyncio.sleep(0)
        assert {(await other).status, (await others).status} == {201}
        del both.ids[-2:]
        for operation, write in zip(operations, writes, strict=True):
            both.state, status = operation.applied(both.state, datetime.now(UTC))
            assert (await write).status == status
        assert counts().sizes[2] == before.sizes[2] + 1  # they did share one
        await both.right()


async def imported(pair):
    """A memory comes in by an import, whose vector the file brings: from the report on both show it."""
    async with pair(warm=True) as both:
        await both.copied()
        header = (await both.a.ask("GET", f"/v1/export?user_id={quote(both.user_id)}")).body.partition(b"\n")[0]
        put = both.put(text="text 2 changed")
        line = msgspec.json.encode({"type": "memory", "user_id": both.user_id, **put.item.sent()})
        lines, told = msgspec.Raw(header + b"\n" + line), {"Content-Type": "application/x-ndjson"}
        answer = await both.a.ask("POST", "/v1/import?part=true", lines, headers=told)
        assert b'"created":1' in answer.body, answer
        both.state, _ = put.applied(both.state, datetime.now(UTC))
        await both.right()


async def flight(pair):
    """A read that begins after an acknowledgement does not join one that began before."""
    async with pair() as both:
        ask = both.asks[0]
        with both.b.held("nearest") as pause:
            first = both.later(both.b, ask)
            await reached(pause)
            await both.write(both.a, both.patch(0))
            second = both.later(both.b, ask)
            for _ in range(50):
                await asyncio.sleep(0)
        await first
        both.judge(ask, await second)
        await both.right()


async def retried(pair):
    """A worker dies after COMMIT and told nobody; the client's second attempt is answered by another worker."""
    async with pair(warm=True) as both:
        await both.copied()
        await both.beside(both.delete(2))
        await both.write(both.b, both.delete(2))
        await both.right()


async def unseen(pair):
    """Nobody is told of a commit: the check finds it."""
    async with pair(warm=True) as both:
        await both.copied()
        await both.beside(both.delete(2))
        for place in (both.a, both.b):
            await place.services.coherence.check()
        await both.right()


async def unseen_and_unasked(pair):
    """Nobody is told, and nobody asks for the user until long after: the check covers idle copies too."""
    async with pair(warm=True) as both:
        await both.copied()
        for place in (both.a, both.b):
            await place.services.coherence.check()
        await both.beside(both.delete(2))
        for place in (both.a, both.b):
            await place.services.coherence.check()
        await both.right()


async def unseen_but_read(pair):
    """One read of the database itself shows a commit that nobody was told of; the copies of other reads stay behind."""
    async with pair() as both:
        await both.copied()
        await both.beside(both.delete(2))
        fresh = List(both.user_id, limit=6)
        for place in (both.a, both.b):
            both.judge(fresh, await both.later(place, fresh))
            await place.services.coherence.check()
        await both.right()


async def unseen_while_filled(pair):
    """A fill began before such a commit and ends after the check that saw it: the next check voids it."""
    async with pair() as both:
        fresh = List(both.user_id, limit=6)
        with both.b.held("nearest") as pause:
            read = both.later(both.b, both.asks[0])
            await reached(pause)
            await both.beside(both.delete(2))
            both.judge(fresh, await both.later(both.b, fresh))
            await both.later(both.b, fresh)
            await both.b.services.coherence.check()
        await read
        await both.later(both.b, both.asks[0])
        await both.b.services.coherence.check()
        await both.right()


async def restored(pair, *, also_written=False):
    """The database goes back to an older state under the running service."""
    async with pair(warm=True) as both:
        old = both.state
        await both.write(both.a, both.put())
        await both.copied()
        scope_id = both.a.scope(both.user_id).id
        async with both.a.store._pool.connection() as connection, connection.transaction():
            await connection.execute("UPDATE scopes SET version = $2 WHERE scope_id = $1", scope_id, old.version)
            for table in ("memories", "memory_vectors"):
                query = f"DELETE FROM {table} WHERE scope_id = $1 AND id = $2"
                await connection.execute(query, scope_id, UUID(both.ids[-1]))
        both.state = old
        for place in (both.a, both.b):
            await place.services.coherence.check()
        if also_written:
            await both.write(both.b, both.patch())
        await both.right()


async def restored_and_written(pair):
    """The same, and what is written then reaches the version that shards of before have."""
    await restored(pair, also_written=True)


FILLS = {"search": "nearest", "words": "load", "list": "list", "get": "get", "getmany": "get"}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_an_acknowledged_write_is_seen_by_every_worker(pair, monkeypatch, write, warm):
    """Whatever the write, whoever made it, and also when it changed nothing but the version."""
    install(monkeypatch)
    await acknowledged(pair, write=write, warm=warm)


@pytest.mark.parametrize(("kind", "store_call"), FILLS.items())
async def test_a_fill_does_not_outlive_a_write(pair, monkeypatch, kind, store_call):
    """The epoch was read before the snapshot: the write has raised it since."""
    install(monkeypatch)
    await fill(pair, kind=kind, store_call=store_call)


PLAYS = [
    brought_back,
    removed,
    load,
    catch_up,
    before_commit,
    after_commit,
    grouped,
    imported,
    flight,
    retried,
    unseen,
    unseen_and_unasked,
    unseen_but_read,
    unseen_while_filled,
    restored,
    restored_and_written,
]


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
async def test_no_order_of_events_shows_an_old_state(pair, monkeypatch, play):
    """Each play by its own docstring."""
    install(monkeypatch)
    await play(pair)


async def test_a_memory_that_expires_is_gone_from_every_copy(pair, monkeypatch):
    """At that moment, from hits, pages and gets, and from the word that more follows a page."""
    install(monkeypatch)
    async with pair(warm=True) as both:
        end = datetime.now(UTC) + timedelta(seconds=3)
        await both.write(both.a, both.put(expires_at=end))
        whole = List(both.user_id, limit=6, ascending=True)
        await both.copied()
        for place in (both.a, both.b, both.a, both.b):
            both.judge(whole, await both.later(place, whole))
        async with asyncio.timeout(10):
            while datetime.now(UTC) < end:
                await asyncio.sleep(0.02)
        for place in (both.a, both.b):
            both.judge(whole, await both.later(place, whole))
        await both.right()


# The same plays with one fault


class NoBump(Unwatched):
    """The bump is left out."""

    def wrote(self, scope_id, version):
        self.learned(scope_id, version)
        return self.epochs(scope_id)


class BumpFirst(Commits):
    """The bump comes before COMMIT."""

    async def write(self, changes):
        for scope_id in {change.scope.id for change in changes}:
            self._coherence.wrote(scope_id, 0)
        return await self._store.apply(changes, now=self._clock.now())


class BumpOneUser(Commits):
    """Of the users of a flush, the first is bumped."""

    async def write(self, changes):
        outcomes = await self._store.apply(changes, now=self._clock.now())
        self._coherence.wrote(changes[0].scope.id, outcomes[0].scope_version)
        return outcomes


class BumpForChanges(Commits):
    """An answer that changed nothing is given without a bump."""

    async def write(self, changes):
        outcomes = await self._store.apply(changes, now=self._clock.now())
        for change, outcome in zip(changes, outcomes, strict=True):
            made = outcome.refused is None and outcome.version > outcome.scope_version - len(changes)
            if made and outcome.status != "duplicate":
                self._coherence.wrote(change.scope.id, outcome.scope_version)
        return outcomes


class CommitLater(PausingStore):
    """A write is answered when its statements are done; its COMMIT comes when somebody has read."""

    readers = ()

    async def apply(self, changes, *, now):
        self.answer = asyncio.get_running_loop().create_future()
        self.late = asyncio.create_task(super().apply(changes, now=now))
        return await self.answer

    async def _write(self, *arguments):
        outcomes = await super()._write(*arguments)
        read = asyncio.get_running_loop().create_future()
        CommitLater.readers = (*self.readers, read)
        self.answer.set_result(outcomes)
        await read
        return outcomes

    async def _read(self, *arguments, **named):
        result = await super()._read(*arguments, **named)
        for read in self.readers:
            read.set_result(None)
        CommitLater.readers = ()
        return result


class LateEpochs(Answers):
    """A fill is stamped with the epoch read after its snapshot."""

    async def _compute(self, kind, key, scope_id, epochs, compute):
        answer = await compute(epochs)
        self.keep(kind, key, scope_id, self._coherence.epochs(scope_id), answer)
        return answer


class LateShards(Warm):
    """A shard counts as complete for the epoch read after its snapshot."""

    def _hold(self, scope_id, shard, epochs, **more):
        return super()._hold(scope_id, shard, self._coherence.epochs(scope_id), **more)


class AnyFlight(Answers):
    """A reader joins whatever flight there is of its question."""

    async def answer(self, kind, key, scope_id, compute):
        for (other, _), running in self._flights.items():
            if other == key:
                return await running.join()
        return await super().answer(kind, key, scope_id, compute)


class Undying(PausingStore):
    """Deltas come without their tombstones."""

    async def changes_since(self, scope, version):
        return msgspec.structs.replace(await super().changes_since(scope, version), deleted=[])


class NeverComparing(Unwatched):
    """The watch compares no versions."""

    def _compare(self, versions):
        pass


class ComparingTheNewest(Unwatched):
    """The watch compares with the newest version that was seen, not with the oldest that is kept."""

    def _compare(self, versions):
        for scope_id, version in versions:
            if version > self._known.get(scope_id, -1):
                self.wrote(scope_id, version)


class CheckingTheServed(Unwatched):
    """The watch covers what was served since it looked last, and nothing else."""

    def _idle(self, served):
        return []


class BeyondLives(Warm):
    """A shard follows deltas from one life of the database into the next."""

    async def shard(self, scope, epochs):
        complete = self._complete.get(scope.id)
        if complete is not None:
            self._complete[scope.id] = Epochs(complete.slot, complete.scope, epochs.every)
        return await super().shard(scope, epochs)


def _fill(kind):
    async def play(pair):
        await fill(pair, kind=kind, store_call=FILLS[kind])

    return play


def _write(kind):
    async def play(pair):
        await acknowledged(pair, write=kind)

    return play


FAULTS = [
    *(pytest.param({"Coherence": NoBump}, _write(kind), id=f"no bump: {kind}") for kind in WRITES if kind != "forget"),
    pytest.param({"Commits": BumpFirst}, before_commit, id="bump before COMMIT"),
    pytest.param({"Commits": BumpOneUser}, grouped, id="one user of a flush bumped"),
    pytest.param({"PostgresStore": CommitLater}, acknowledged, id="acknowledged before COMMIT"),
    pytest.param({"PostgresStore": CommitLater}, imported, id="import acknowledged before COMMIT"),
    pytest.param({"Coherence": NoBump}, imported, id="no bump: import"),
    pytest.param({"Coherence": NoBump}, brought_back, id="no bump: undelete"),
    pytest.param({"Coherence": NoBump}, removed, id="no bump: expiry"),
    *(pytest.param({"Answers": LateEpochs}, _fill(kind), id=f"late epoch: {kind}") for kind in FILLS),
    pytest.param({"Warm": LateShards}, load, id="late epoch: load"),
    pytest.param({"Warm": LateShards}, catch_up, id="late epoch: delta"),
    pytest.param({"Answers": AnyFlight}, flight, id="older flight joined"),
    pytest.param({"PostgresStore": Undying}, _write("delete"), id="tombstones ignored"),
    pytest.param({"Commits": BumpForChanges}, retried, id="no bump for a repeated delete"),
    pytest.param({"Coherence": NeverComparing}, unseen, id="no versions compared"),
    pytest.param({"Coherence": CheckingTheServed}, unseen_and_unasked, id="idle copies not checked"),
    pytest.param({"Coherence": ComparingTheNewest}, unseen_but_read, id="newest version compared, after a read"),
    pytest.param({"Coherence": ComparingTheNewest}, unseen_while_filled, id="newest version compared, during a fill"),
    pytest.param({"Warm": BeyondLives}, restored_and_written, id="deltas across lives"),
]


@pytest.mark.parametrize(("parts", "play"), FAULTS)
async def test_a_fault_is_caught(pair, monkeypatch, parts, play):
    """A play that passes says something: with the fault it was made for it does not."""
    install(monkeypatch, **parts)
    with pytest.raises(Stale):
        await play(pair)


NOT_OF_WORDS = {f"late epoch: {kind}" for kind in FILLS if kind != "words"}
NOT_OF_WORDS.add("newest version compared, during a fill")
"""Faults of copies that other reads have filled."""


@pytest.mark.parametrize(("parts", "play"), [fault for fault in FAULTS if fault.id not in NOT_OF_WORDS])
async def test_a_fault_is_caught_by_words(pair, monkeypatch, parts, play):
    """The same where both workers are asked for words alone."""
    install(monkeypatch, **parts)
    monkeypatch.setattr(Pair, "judged", Words)
    with pytest.raises(Stale):
        await play(pair)


@pytest.mark.parametrize("write", ["create", "update", "patch", "batch"])
async def test_words_that_do_not_follow_a_write_are_caught(pair, monkeypatch, write):
    """Vectors follow it in both workers, and terms do not."""
    advanced = Postings.advanced
    install(monkeypatch)
    monkeypatch.setattr(Postings, "advanced", lambda own, added, *dead: advanced(own, [[]] * len(added), *dead))
    with pytest.raises(Stale, match="Words"):
        await acknowledged(pair, write=write)


async def test_a_worker_that_forgets_its_own_deletes_is_caught(pair, monkeypatch):
    """The delta that a worker makes of its own write holds the tombstones too."""
    real = commits._delta

    def without_tombstones(*arguments):
        delta = real(*arguments)
        return delta and msgspec.structs.replace(delta, deleted=[])

    install(monkeypatch)
    monkeypatch.setattr(commits, "_delta", without_tombstones)
    with pytest.raises(Stale):
        await acknowledged(pair, write="delete")


@pytest.mark.parametrize("write", ["ignore", "refused"])
async def test_what_changed_nothing_still_shows_in_the_version(pair, monkeypatch, write):
    """Such a write takes a version: without a bump copies would name an older one than was acknowledged."""
    install(monkeypatch, Commits=BumpForChanges)
    with pytest.raises(Stale):
        await acknowledged(pair, write=write)
