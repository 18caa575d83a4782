"""Two workers in one event loop over one real PostgreSQL, with places where each can be made to wait."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from bench.coherence.driver import Checker, Stale, Tally, shown, timed
from bench.coherence.fleet import Answer
from bench.coherence.model import Ask, Batch, Delete, Get, GetMany, Item, List, Operation, Patch, Put, Search, State
from bench.coherence.plan import VECTORS
from bench.coherence.words import Words

from memfast import model
from memfast.http.app import build_app
from memfast.service.coherence import Coherence
from memfast.store.postgres import PostgresStore

WAIT_S = 20.0
"""Nothing here takes long: what does is stuck."""


class Pause:
    """A place where a store waits: `reached` is set when it has come there, `go` lets it go on."""

    def __init__(self):
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def here(self):
        """Wait."""
        self.reached.set()
        await self.go.wait()


class PausingStore(PostgresStore):
    """The real store, which can be held before its transactions and after what it has read or committed."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.pauses = {}
        self.queries = dict.fromkeys(("nearest", "get", "list", "load", "changes_since"), 0)

    async def _at(self, place):
        pause = self.pauses.pop(place, None)
        if pause is not None:
            await pause.here()

    async def _read(self, name, *arguments, **named):
        self.queries[name] += 1
        result = await getattr(super(), name)(*arguments, **named)
        await self._at(name)
        return result

    async def apply(self, changes, *, now):
        await self._at("before commit")
        outcomes = await super().apply(changes, now=now)
        await self._at("after commit")
        return outcomes

    async def nearest(self, *arguments, **named):
        return await self._read("nearest", *arguments, **named)

    async def get(self, *arguments, **named):
        return await self._read("get", *arguments, **named)

    async def list(self, *arguments, **named):
        return await self._read("list", *arguments, **named)

    async def load(self, *arguments, **named):
        return await self._read("load", *arguments, **named)

    async def changes_since(self, *arguments, **named):
        return await self._read("changes_since", *arguments, **named)


class Unwatched(Coherence):
    """Coherence that checks when a test says so."""

    async def watch(self, interval_s):
        """Nothing, for ever."""
        await asyncio.Event().wait()


class InProcess:
    """One worker: the whole application, called without a network."""

    def __init__(self, edge):
        self.pid = os.getpid()
        self.edge = edge

    @property
    def services(self):
        """Its live objects."""
        return self.edge._use.services

    @property
    def store(self):
        """Its store."""
        return self.services.recall._store

    def scope(self, user_id):
        """A user as the services name it."""
        access = self.services.access
        return access.scope(access.recognise(None), user_id)

    @contextmanager
    def held(self, place):
        """Hold its store when it next comes to a place, until the block ends."""
        pause = self.store.pauses[place] = Pause()
        try:
            yield pause
        finally:
            self.store.pauses.pop(place, None)
            pause.go.set()

    async def ask(self, method, path, body=None, *, headers=None):
        """One request through the ASGI application."""
        path, _, query = path.partition("?")
        sent = [] if body is None else [msgspec.json.encode(body)]
        own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % sum(map(len, sent)))]
        more = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": (own if sent else []) + more,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        parts = []

        arrived = iter([{"type": "http.request", "body": sent.pop() if sent else b"", "more_body": False}])

        async def receive():
            message = next(arrived, None)
            return message or await asyncio.Event().wait()  # the client stays

        async def send(message):
            parts.append(message)

        await asyncio.sleep(0)  # as a network would, which a hot answer does not wait for
        async with asyncio.timeout(WAIT_S):
            await self.edge(scope, receive, send)
        given = {name.lower(): value.decode() for name, value in parts[0]["headers"]}
        content = b"".join(part.get("body", b"") for part in parts[1:])
        version = int(given.get(b"memfast-version", 0))
        token = given.get(b"memfast-token", "")
        return Answer(parts[0]["status"], given.get(b"memfast-tier", ""), version, content, token)


@asynccontextmanager
async def worker(site):
    """A worker, from the start to the end of its lifespan."""
    edge = build_app(site)
    inbox, outbox = asyncio.Queue(), asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    life = asyncio.create_task(edge(scope, inbox.get, outbox.put))
    await inbox.put({"type": "lifespan.startup"})
    started = await asyncio.wait_for(outbox.get(), WAIT_S)
    assert started["type"] == "lifespan.startup.complete", started
    try:
        yield InProcess(edge)
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(life, WAIT_S)


class Pair:
    """Two workers, one user, and what is known of it. Only reads of the class `judged` are kept and compared."""

    judged = Ask

    def __init__(self, a, b, user_id):
        self.a, self.b = a, b
        self.checker = Checker((a, b), Tally())
        self.user_id = user_id
        self.state = State(user_id)
        self.ids = []

    def item(self, number, **fields):
        """A memory that was not there before."""
        self.ids.append(str(UUID(int=(len(self.ids) + 1) << 64)))
        created_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number)
        return Item(
            **{"id": self.ids[-1], "text": f"text {number}", "vector": VECTORS[number]} | fields, created_at=created_at
        )

    @property
    def asks(self):
        """Everything that can be asked of the user."""
        searches = [Search(self.user_id, tuple(VECTORS[row].astype(float)), limit) for row, limit in ((0, 3), (18, 50))]
        words = [Words(self.user_id, "text 2"), Words(self.user_id, "changed text", tuple(VECTORS[0].astype(float)))]
        lists = [List(self.user_id), List(self.user_id, limit=2, ascending=True)]
        gets = [Get(self.user_id, target) for target in self.ids]
        return [*searches, *words, *lists, GetMany(self.user_id, tuple(self.ids)), *gets]

    async def begin(self):
        """Six memories."""
        puts = tuple(Put(self.user_id, self.item(number)) for number in range(6))
        await self.write(self.a, Batch(self.user_id, puts))

    async def write(self, place, operation: Operation):
        """Write through a worker; the state is the new one when that has answered."""
        after, status = operation.applied(self.state, datetime.now(UTC))
        answer = await place.ask(*operation.request())
        assert answer.status == status, answer
        self.state = after

    async def beside(self, operation: Delete):
        """What a worker does that dies after COMMIT: nobody is told."""
        now = datetime.now(UTC)
        change = model.Delete(scope=self.a.scope(self.user_id), id=UUID(operation.id))
        await PostgresStore.apply(self.a.store, [change], now=now)
        self.state, _ = operation.applied(self.state, now)

    async def warm(self):
        """Load the user's shard in both workers."""
        for place in (self.a, self.b):
            assert await place.services.warm.load(place.scope(self.user_id))

    async def copied(self):
        """Make both workers keep whatever they can keep, and see that they do."""
        await self.right()
        for place in (self.a, self.b):
            assert {(await timed(place, ask))[1].tier for ask in self._of(self.asks[:7])} == {"hot"}

    async def right(self, places=None):
        """Both workers say what the state says, also when they are asked again.

        Raises:
            Stale: one does not.
        """
        checker = self.checker if places is None else Checker(places, self.checker.tally)
        await checker.everywhere(self.state, self._of(self.asks), 2)

    def _of(self, asks):
        return [ask for ask in asks if isinstance(ask, self.judged)]

    def later(self, place, ask):
        """Begin a read that may be held; the task gives the answer and its moments."""
        return asyncio.create_task(timed(place, ask))

    def judge(self, ask, seen):
        """Raise `Stale` unless an answer is the state's."""
        first, answer, last = seen
        if not shown(ask, self.state, answer, first, last):
            raise Stale(f"{ask}: {answer}")

    def patch(self, number=0, text="changed"):
        """A change of a memory's text."""
        return Patch(self.user_id, self.ids[number], (("text", text), ("vector", VECTORS[9])))

    def delete(self, number=0):
        """A delete."""
        return Delete(self.user_id, self.ids[number])

    def put(self, number=7, **fields):
        """A create."""
        return Put(self.user_id, self.item(number, **fields))

    def again(self, number, on_conflict):
        """A create under an id that is taken."""
        return Put(self.user_id, replace(self.state.items[self.ids[number]], text="not this"), on_conflict)


async def reached(pause):
    """Wait until a store has come to its pause."""
    async with asyncio.timeout(WAIT_S):
        await pause.reached.wait()


def install(monkeypatch, **parts):
    """Build workers with parts of ours; what is not given is the real thing, but for the pauses."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[:2] == ["memfast", "bootstrap"]]
    for name, part in {"PostgresStore": PausingStore, "Coherence": Unwatched, **parts}.items():
        users = [module for module in modules if hasattr(module, name)]
        assert users, f"nobody builds a {name}"
        for module in users:
            monkeypatch.setattr(module, name, part)
