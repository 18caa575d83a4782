"""The live objects of one worker."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.bootstrap.associations import build_association_settings
from memfast.bootstrap.copies import build_answers, build_cached_embedder, build_pressure, resized
from memfast.bootstrap.database import Pools, open_pools
from memfast.bootstrap.embedder import build_embedder, guard_embedder, load_embedder
from memfast.bootstrap.graph import GraphLayer, open_graph
from memfast.bootstrap.ground import Ground, life_note, renewed
from memfast.bootstrap.ranking import build_ranking, open_thesaurus
from memfast.bootstrap.relay import open_relay
from memfast.bootstrap.shared import SharedLayer, guard, open_shared
from memfast.bootstrap.stores import build_shards, build_store
from memfast.bootstrap.tasks import run_beside
from memfast.config import Config
from memfast.embedding.guarded import GuardedEmbedder
from memfast.errors import DatabaseRefused, Unavailable
from memfast.index.hnsw import MISSING_REASON
from memfast.index.pool import ShardPool
from memfast.kernels import CacheAges, CacheStats, SlotTable
from memfast.metrics import Meter, unread
from memfast.model import DatabaseFacts
from memfast.ports import Clock, SharedCache
from memfast.resilience.breaker import Breaker
from memfast.resilience.clock import SystemClock
from memfast.resilience.retry import Budget, Retry
from memfast.resilience.threads import lower_priority
from memfast.search.words import words_of
from memfast.service.access import Access
from memfast.service.answers import Answers
from memfast.service.associations import Associations
from memfast.service.background import Background
from memfast.service.claims import Claims
from memfast.service.coherence import Coherence
from memfast.service.commits import Commits
from memfast.service.copies import Copies
from memfast.service.cursors import Cursors
from memfast.service.embeddings import CachedEmbedder
from memfast.service.exports import Exports
from memfast.service.forget import Forget
from memfast.service.freshness import Freshness
from memfast.service.graphs import CopiedGraph
from memfast.service.groups import GroupLimits
from memfast.service.health import Health
from memfast.service.heat import Heat
from memfast.service.history import History
from memfast.service.identifiers import Identifiers
from memfast.service.imports import Imports
from memfast.service.limits import Limits
from memfast.service.links import Links
from memfast.service.modes import Modes
from memfast.service.pressure import Pressure
from memfast.service.question import Questions
from memfast.service.recall import Recall
from memfast.service.relay import Relay
from memfast.service.remember import Remember
from memfast.service.search import Search
from memfast.service.searches import Searches
from memfast.service.streams import Streams
from memfast.service.sweeps import Sweeps
from memfast.service.tuning import Orders, Tuning
from memfast.service.users import Directory
from memfast.service.warm import Warm
from memfast.service.warmup import Warmup
from memfast.service.writer import Writer
from memfast.store.access import PostgresAccessLog
from memfast.store.claims import PostgresKeyedAnswers
from memfast.store.keys import PostgresKeys
from memfast.store.ledger import PostgresLedger
from memfast.store.life import write_note
from memfast.store.links import PostgresLinks
from memfast.store.pool import Pool
from memfast.store.postgres import PostgresStore
from memfast.store.sweeper import PostgresSweeper

__all__ = ["Services", "open_services"]

_log = logging.getLogger("memfast")

LIFE_NOTE_S = 5.0
"""Time between notes of how far the database has come, in seconds."""

PATIENCE_S = 8.0
"""How long a worker's start waits for the database, in seconds; Granian ends a service whose workers wait under 5.5."""

AGAIN_S = 0.2
"""Time between tries to reach it, in seconds."""

DRAIN_S = 5.0
"""Time for the background's tasks, which are short, when a worker stops, in seconds."""

WARM_THREADS = 2
"""Threads of a worker for searches and builds that would hold its event loop up."""


class Services(Struct, frozen=True, kw_only=True):
    """The live objects of one worker, as the faces use them.

    `moved` is set when the vectors that these compare are not the database's current ones any more.
    """

    moved: asyncio.Event
    access: Access
    answers: Answers
    coherence: Coherence
    embedder: CachedEmbedder
    heat: Heat
    warm: Warm
    shards: ShardPool
    warmup: Warmup
    pressure: Pressure
    tuning: Tuning
    remember: Remember
    recall: Recall
    search: Search
    searches: Searches
    forget: Forget
    copies: Copies
    history: History
    links: Links
    exports: Exports
    imports: Imports
    background: Background
    associations: Associations
    sweeps: Sweeps
    freshness: Freshness
    directory: Directory
    cursors: Cursors
    health: Health
    modes: Modes
    pool: Pool
    control: Pool
    breakers: tuple[Breaker, ...]
    shared: SharedCache | None
    relay: Relay | None
    writer: Writer
    claims: Claims
    limits: Limits
    clock: Clock
    meter: Meter
    data_dir: str

    def caches(self) -> dict[str, CacheStats]:
        """Counters of every cache of this worker, by name."""
        return {**self.answers.stats(), "embeddings": self.embedder.stats()}

    def ages(self) -> dict[str, CacheAges]:
        """How long each of them has held its entries."""
        return {**self.answers.ages(), "embeddings": self.embedder.ages()}


@asynccontextmanager
async def open_services(site: Ground, meter: Meter | None = None) -> AsyncIterator[Services]:
    """Open a worker's live objects, in order; close them in reverse.

    They are for the generation of vectors that is current, which may be a later one than the parent has found. The
    `meter` counts what they do.

    Raises:
        DatabaseRefused: the database could not be reached for `PATIENCE_S`.
        EmbedderMismatch: nothing says how its vectors are made.
    """
    stack, base = await _begun(site, meter or unread())
    async with stack:
        services = _services(base, _copies(base))
        run_beside(
            stack,
            services.coherence.watch(site.config.postgres.watch_interval_s),
            services.modes.watch(),
            services.pressure.watch(site.config.memory.watch_interval_s),
            _keep_life(base.site, services.coherence),
            services.heat.watch(),
            services.copies.watch(),
            services.warmup.start(site.config.index.start_users, site.config.index.start_queries),
            load_embedder(services.embedder),
            guard(base.shared, base.site, services.coherence, base.ledger),
        )
        yield services


async def _begun(site: Ground, meter: Meter) -> tuple[AsyncExitStack, _Base]:
    """What the services stand on. A database that the parent has found may be away for a moment: it is waited for."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        async with AsyncExitStack() as stack:
            try:
                base = await _open_base(site, stack, meter)
            except (DatabaseRefused, Unavailable) as error:
                if time.monotonic() >= until_s:
                    raise
                _log.warning("a worker waits for the database: %s", error)
            else:
                return stack.pop_all(), base
        await asyncio.sleep(AGAIN_S)


class _Base(Struct, frozen=True, kw_only=True):
    """What the services stand on."""

    site: Ground
    stack: AsyncExitStack
    clock: Clock
    pools: Pools
    shared: SharedLayer | None
    remote: GuardedEmbedder | None
    embedder: CachedEmbedder
    store: PostgresStore
    ledger: PostgresLedger
    access: Access
    coherence: Coherence
    limits: Limits
    log: PostgresAccessLog
    moved: asyncio.Event
    meter: Meter
    graph: GraphLayer | None
    relay: Relay | None

    @property
    def config(self) -> Config:
        return self.site.config

    @property
    def optional(self) -> list[Breaker]:
        """The breakers of what the service can do without."""
        return [each.breaker for each in (self.shared, self.remote, self.graph) if each is not None]

    def lineage(self) -> UUID:
        """The life of the database that the worker knows of now."""
        return self.coherence.facts.lineage


async def _open_base(site: Ground, stack: AsyncExitStack, meter: Meter) -> _Base:
    site = await renewed(site)
    config, prepared, clock = site.config, site.prepared, SystemClock()
    pools = await stack.enter_async_context(open_pools(site, clock, meter))
    ledger = PostgresLedger(pools.control)
    facts, _ = await ledger.versions([])
    access, moved = Access(PostgresKeys(pools.work), prepared.secret, facts), asyncio.Event()
    slots, cluster = SlotTable.open(site.slots), config.coherence.mode == "cluster"

    def learned(facts: DatabaseFacts) -> None:
        access.learned(facts)
        embedder.learned(facts)
        if facts.generation != prepared.generation:
            moved.set()

    coherence = Coherence(slots, ledger, facts, clock, learned, cluster=cluster)
    remote = guard_embedder(config, clock)
    shared = await stack.enter_async_context(open_shared(site, coherence, clock, vectors=remote is not None))
    vectors = None if shared is None else shared.vectors
    embedder = build_cached_embedder(config, remote or build_embedder(config.embedding), clock, vectors, meter)
    stack.push_async_callback(embedder.close)
    embedder.learned(facts)
    if remote is not None:
        run_beside(stack, remote.watch())
    graph = await stack.enter_async_context(open_graph(config, clock))
    return _Base(
        site=site,
        stack=stack,
        clock=clock,
        pools=pools,
        shared=shared,
        remote=remote,
        embedder=embedder,
        store=build_store(config, pools.work, prepared),
        ledger=ledger,
        access=access,
        coherence=coherence,
        limits=Limits(config.limits, prepared.dimensions),
        log=PostgresAccessLog(pools.work),
        moved=moved,
        meter=meter,
        graph=graph,
        relay=await stack.enter_async_context(open_relay(site, graph, pools.control, clock)),
    )


class _Copies(Struct, frozen=True):
    """What a worker keeps so as to answer without the store, and what chooses it."""

    heat: Heat
    answers: Answers
    shards: ShardPool
    warm: Warm


def _copies(base: _Base) -> _Copies:
    config, prepared, clock = base.config, base.site.prepared, base.clock
    heat = Heat(base.log, clock)
    shards = build_shards(config, prepared, base.lineage)
    executors, flat_limit = _executors(base.stack), config.index.flat_limit
    warm = Warm(shards, base.store, base.coherence, *executors, prepared.dimensions, flat_limit, clock, base.meter)
    beyond, room = None if base.shared is None else base.shared.answers, base.pools.work.require_room
    answers = build_answers(config, coherence=base.coherence, heat=heat, clock=clock, shared=beyond, require_room=room)
    return _Copies(heat, answers, shards, warm)


def _services(base: _Base, copies: _Copies) -> Services:
    config, prepared, clock, store = base.config, base.site.prepared, base.clock, base.store
    coherence, embedder, limits = base.coherence, base.embedder, base.limits
    answers, warm, heat = copies.answers, copies.warm, copies.heat
    cursors = Cursors(prepared.secret, base.lineage)
    freshness, search = Freshness(coherence), _search(base, copies)
    shared = None if base.shared is None else base.shared.answers
    copy = None if base.graph is None else base.graph.projection
    kept = Copies(store, answers, warm, heat, coherence, shared, copy)
    writer = _writer(base, warm)
    graph = PostgresLinks(base.pools.work)
    walks = graph if copy is None else CopiedGraph(copy, graph, graph)
    background, sweeps = _background(base, writer)
    associating = build_association_settings(config)
    associations = Associations(store, graph, writer, warm, coherence, background, clock, associating)
    run_beside(base.stack, associations.watch())
    retention, streams = _retention(config), Streams(config.server.streams_max)
    return Services(
        moved=base.moved,
        access=base.access,
        answers=answers,
        coherence=coherence,
        embedder=embedder,
        heat=heat,
        warm=warm,
        shards=copies.shards,
        warmup=Warmup(base.log, warm, search),
        pressure=build_pressure(config, answers, copies.shards),
        tuning=_tuning(base, copies),
        remember=Remember(writer, embedder, associations, limits, Identifiers(clock, secrets.randbits), clock),
        recall=Recall(store, answers, warm, heat, coherence, limits, cursors, clock),
        search=search,
        searches=Searches(search, freshness, base.meter),
        forget=Forget(store, writer, kept, associations, limits, clock),
        copies=kept,
        history=History(store, writer, embedder, limits, cursors, clock, retention),
        links=Links(graph, walks, writer, answers, warm, heat, coherence, limits, cursors, clock),
        exports=Exports(store, embedder, prepared.generation, base.lineage, streams, clock, retention),
        imports=Imports(writer, embedder, limits, streams, clock, step_timeout_s=config.server.write_timeout_s),
        background=background,
        associations=associations,
        sweeps=sweeps,
        freshness=freshness,
        directory=Directory(store, limits, cursors),
        cursors=cursors,
        health=Health(build_store(config, base.pools.control, prepared), embedder, clock),
        modes=Modes(base.pools.breaker, base.optional, coherence, clock, config.resilience.mode, base.meter),
        pool=base.pools.work,
        control=base.pools.control,
        breakers=(base.pools.breaker, *base.optional),
        shared=None if base.shared is None else base.shared.cache,
        writer=writer,
        claims=_claims(base),
        limits=limits,
        clock=clock,
        meter=base.meter,
        data_dir=config.data_dir,
        relay=base.relay,
    )


def _tuning(base: _Base, copies: _Copies) -> Tuning:
    """What makes copies take as much as was ordered while the service runs, from now on."""
    orders = Orders.open(base.site.orders)
    base.stack.callback(orders.close)
    tuning = Tuning(orders, base.config, lambda config: resized(config, copies.answers, copies.shards, base.embedder))
    run_beside(base.stack, tuning.watch())
    return tuning


def _claims(base: _Base) -> Claims:
    retention = timedelta(hours=base.config.writes.key_retention_h)
    return Claims(PostgresKeyedAnswers(base.pools.work), base.clock, retention)


def _search(base: _Base, copies: _Copies) -> Search:
    config = base.config
    words = words_of(config.search.language)
    thesaurus = open_thesaurus(config, words, base.stack)
    questions = Questions(
        build_ranking(config),
        config.search.duplicate_similarity,
        words,
        base.limits,
        embeds=config.embedding.provider != "none",
        expands=thesaurus is not None,
    )
    return Search(
        base.store,
        PostgresLinks(base.pools.work),
        base.embedder,
        copies.answers,
        copies.warm,
        copies.heat,
        base.coherence,
        questions,
        thesaurus,
        base.clock,
        config.search.leg_timeout_ms / 1000,
        embeds_far=base.remote is not None,
    )


def _retention(config: Config) -> timedelta:
    return timedelta(days=config.history.retention_days)


def _background(base: _Base, writer: Writer) -> tuple[Background, Sweeps]:
    """The queue of work that no request waits for, and what puts work into it. The queue is drained at the end."""
    config, clock, stack = base.config, base.clock, base.stack
    background = Background(
        Retry(Budget(), clock, asyncio.sleep, random.random),
        clock,
        queue_limit=config.background.queue_limit,
        parallel=config.background.parallel,
    )
    sweeps = Sweeps(PostgresSweeper(base.pools.work), writer, background, clock, _retention(config))
    run_beside(stack, background.run())
    stack.push_async_callback(background.drain, DRAIN_S)
    run_beside(stack, sweeps.watch(config.history.expiry_interval_s, config.history.erase_interval_s))
    return background, sweeps


def _executors(stack: AsyncExitStack) -> tuple[Executor, Executor]:
    """Threads for what would hold the event loop up, and one of low priority for rebuilds into graphs."""
    if MISSING_REASON is not None:
        _log.warning(MISSING_REASON)
    executor = stack.enter_context(ThreadPoolExecutor(WARM_THREADS, thread_name_prefix="memfast-warm"))
    rebuilder = ThreadPoolExecutor(1, thread_name_prefix="memfast-rebuild", initializer=lower_priority)
    return executor, stack.enter_context(rebuilder)


def _writer(base: _Base, warm: Warm) -> Writer:
    """The way of writes, which leaves at least one of a worker's connections to reads where there are several."""
    writes = base.config.writes
    limits = GroupLimits(
        flush_items=writes.flush_items,
        wait_s=writes.flush_wait_ms / 1000,
        flushes=min(writes.flushes, max(1, base.pools.work.limit - 1)),
        queue_items=writes.queue_items,
        background_items=writes.queue_batch_items,
        age_s=writes.batch_age_ms / 1000,
    )
    tell = None if base.relay is None else base.relay.tell
    commits = Commits(base.store, base.coherence, warm, base.site.prepared.dimensions, base.clock, tell)
    writer = Writer(commits, base.clock, limits, singly_timeout_s=writes.flush_timeout_s, meter=base.meter)
    base.stack.push_async_callback(writer.drain, base.config.server.stop_timeout_s)
    return writer


async def _keep_life(site: Ground, coherence: Coherence) -> None:
    """Note how far the database has come, every few seconds."""
    path = life_note(site.config)
    while True:
        await asyncio.sleep(LIFE_NOTE_S)
        life = msgspec.structs.replace(site.note.life, wal=coherence.facts.wal)
        await asyncio.to_thread(write_note, path, msgspec.structs.replace(site.note, life=life))
