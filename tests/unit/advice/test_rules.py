"""Each rule at its border: one step short of it nothing is said, at it what is wrong is named with its figures."""

import pytest
from msgspec.structs import replace

from memfast.advice import Database, Index, SlowStatement, Snapshot, Table, advise
from memfast.metrics.statistics import CacheCounts, OperationStats, PoolCounts, StageStats, WarmCounts, WindowStats
from memfast.metrics.uses import LayerUse, PoolUse, ProcessUse, WarmUse

MIB = 1024 * 1024
LAYERS = {"search": 0.65, "list": 0.15, "get": 0.1, "requests": 0.1}


def layer(name, *, limit_mib, entries=100, size_mib=1.0, limit_entries=10_000):
    """What a layer of copies holds and may hold."""
    return LayerUse(
        layer=name,
        entries=entries,
        bytes=int(size_mib * MIB),
        limit_entries=limit_entries,
        limit_bytes=int(limit_mib * MIB),
        mean_age_s=1.0,
        oldest_age_s=2.0,
    )


def counts(hits=1000, misses=100, evictions=0, recalls=0):
    """What happened in a cache."""
    return CacheCounts(hits=hits, misses=misses, evictions=evictions, recalls=recalls, expirations=0, invalidations=0)


def operation(requests=1000, slow=0, **stages):
    """Searches."""
    return OperationStats(
        method="POST",
        route="/v1/search",
        requests=requests,
        per_second=1.0,
        mean_ms=1.0,
        p50_ms=1.0,
        p95_ms=2.0,
        p99_ms=3.0,
        refused=0,
        failed=0,
        error_rate=0.0,
        slow=slow,
        slow_stages=stages,
        tiers={"hot": 900, "cold": 100},
    )


def healthy():
    """A service of one worker and default settings, with traffic, that lacks nothing."""
    window = WindowStats(
        minutes=60,
        seconds=1800.0,
        requests=1000,
        per_second=1.0,
        error_rate=0.0,
        slow=0,
        operations=[operation()],
        stages=[StageStats(work="search", stage="rank", times=1000, mean_ms=1.0, p95_ms=10.0)],
        hit_rates={},
        caches={name: counts() for name in (*LAYERS, "embeddings")},
        pool=PoolCounts(taken=1000, refused=0, waited=0, wait_p95_ms=0.1, busy_most=2),
        warm=WarmCounts(loads_held=50, loads_refused=0, loads_failed=0, evictions=0, clean_ups=0, emergencies=0),
        cpu_cores=0.5,
    )
    return Snapshot(
        process=ProcessUse(
            workers=1,
            resident_bytes=150 * MIB,
            budget_bytes=500 * MIB,
            open_files=20,
            warm_users=10,
            warm_bytes=MIB,
            cache_bytes=MIB,
        ),
        pool=PoolUse(limit=4, used=0, idle=4, waiting=0, utilisation=0.0),
        layers={name: layer(name, limit_mib=128 * share) for name, share in LAYERS.items()}
        | {"embeddings": layer("embeddings", limit_mib=2), "warm": layer("warm", limit_mib=256, limit_entries=0)},
        warm=WarmUse(memories=1000, largest_memories=500, graph_users=0, flat_limit=40_000),
        window=window,
        settings={
            "cache.memory_mb": 128.0,
            "cache.search_share": 0.65,
            "cache.list_share": 0.15,
            "cache.get_share": 0.1,
            "cache.entries": 10_000.0,
            "cache.embedding_entries": 1000.0,
            "index.memory_mb": 256.0,
        },
        database=Database(
            indexes=[Index(name="memories_by_version", table="memories", migration="0001_pre_memories", state="valid")],
            tables=[table()],
            statements=None,
            waiting=0,
            connections_free=90,
        ),
    )


def table(**changes):
    """A large table that is read by its indexes."""
    plain = Table(
        name="memories",
        rows=10_000,
        scans=2,
        scanned_rows=20_000,
        index_scans=10_000,
        scanned_s=60.0,
        changed_rows=0,
    )
    return replace(plain, **changes)


def seen(snapshot=None, **parts):
    """A snapshot with some of its parts changed, by field: a dictionary of their own changed fields."""
    snapshot = snapshot or healthy()
    changed = {
        name: replace(getattr(snapshot, name), **part) if name != "layers" else snapshot.layers | part
        for name, part in parts.items()
    }
    return replace(snapshot, **changed)


def caches(**changed):
    """The window's counts of caches, some of them others."""
    return {"caches": healthy().window.caches | changed}


def found(snapshot):
    """The advice, by rule; each rule says one thing here."""
    report = advise(snapshot)
    told = {each.rule: each for each in report.advice}
    assert len(told) == len(report.advice)
    return told


def only(snapshot, rule):
    """The one piece of advice there is."""
    told = found(snapshot)
    assert list(told) == [rule]
    assert told[rule].evidence
    assert told[rule].expected
    return told[rule]


def figures(advice):
    """The evidence, by what it is."""
    return {each.what: each.value for each in advice.evidence}


def test_a_healthy_service_gets_no_advice():
    """Whatever else a rule asks for, it is not what every service has."""
    report = advise(healthy())
    assert report.advice == []
    assert report.not_judged == []


def test_too_little_traffic_is_said_and_not_guessed_from():
    """Up to the request that makes it enough; what the database lacks is told all the same."""
    bad = {"operations": [operation(slow=50, sql=50)]}
    few = advise(seen(window={"requests": 299} | bad))
    assert few.advice == []
    assert [each.reason for each in few.not_judged] == ["not enough requests yet (299 of 300)"]
    only(seen(window={"requests": 300} | bad), "operation-slow")
    lacking = replace(healthy().database.indexes[0], state="missing")
    assert [each.rule for each in advise(seen(window={"requests": 0}, database={"indexes": [lacking]})).advice] == [
        "index-missing"
    ]


def test_a_database_that_was_not_asked_is_said():
    """Nothing is claimed of it."""
    report = advise(replace(healthy(), database=None))
    assert [each.subject for each in report.not_judged] == ["database"]


FULL = layer("search", limit_mib=100, size_mib=90)


def test_a_full_cache_that_is_asked_for_what_it_let_go_is_too_small():
    """Twice the memory, live, where the budget has it."""
    snapshot = seen(layers={"search": FULL}, window=caches(search=counts(100, 900, 900, 50)))
    advice = only(snapshot, "cache-too-small")
    assert advice.settings == {"cache.memory_mb": 256}
    assert advice.apply == "settings"
    assert figures(advice)["hit rate"] == 0.1
    assert "15% instead of 10%" in advice.expected


@pytest.mark.parametrize(
    ("held", "happened"),
    [
        (FULL, counts(100, 900, 900, 49)),
        (FULL, counts(19, 180, 180, 180)),
        (layer("search", limit_mib=100, size_mib=89.9), counts(100, 900, 900, 50)),
        (FULL, counts(0, 1000, 1000, 0)),
    ],
    ids=["few come back", "few look-ups", "not full", "nothing comes back"],
)
def test_a_cache_that_would_gain_nothing_is_not_too_small(held, happened):
    """Evictions alone are no evidence: what never comes back needs no room."""
    assert found(seen(layers={"search": held}, window=caches(search=happened))) == {}


def test_a_cache_is_judged_from_two_hundred_look_ups_on():
    """That many are enough."""
    only(seen(layers={"search": FULL}, window=caches(search=counts(20, 180, 180, 180))), "cache-too-small")


def test_the_bound_that_is_reached_is_raised():
    """Entries, where it is their number; those of embeddings are counted by themselves."""
    happened = counts(100, 900, 900, 500)
    numbered = layer("search", limit_mib=83.2, entries=9000)
    assert only(seen(layers={"search": numbered}, window=caches(search=happened)), "cache-too-small").settings == {
        "cache.entries": 20_000
    }
    vectors = layer("embeddings", limit_mib=2, size_mib=1.9, entries=1000, limit_entries=1000)
    advice = only(seen(layers={"embeddings": vectors}, window=caches(embeddings=happened)), "cache-too-small")
    assert advice.settings == {"cache.embedding_entries": 2000}


def test_where_the_budget_is_full_idle_caches_give_their_share():
    """The shares still leave something for requests; without an idle one the budget has to grow, at a restart."""
    happened = caches(search=counts(100, 900, 900, 500))
    fits = seen(layers={"search": FULL}, window=happened)
    held = sum(fits.layers[name].bytes for name in LAYERS)
    tight = int(0.7 * 500 * MIB) - held
    assert "cache.memory_mb" in only(seen(fits, process={"resident_bytes": tight}), "cache-too-small").settings
    full = seen(fits, process={"resident_bytes": tight + 1})
    split = only(full, "cache-too-small")
    assert set(split.settings) == {"cache.search_share", "cache.list_share", "cache.get_share"}
    assert split.settings["cache.search_share"] > 0.8
    assert sum(split.settings.values()) <= 0.99
    assert split.apply == "settings"
    busy = {name: layer(name, limit_mib=12, size_mib=11) for name in ("list", "get", "requests")}
    grown = only(seen(full, layers=busy), "cache-too-small")
    assert grown.apply == "none"
    assert grown.settings["cache.memory_mb"] == 256
    assert grown.settings["memory.budget_mb"] % 64 == 0
    assert grown.settings["memory.budget_mb"] >= 500
    wanting = seen(full, window=caches(search=counts(100, 900, 900, 500), list=counts(10, 10, 5, 1)))
    assert only(wanting, "cache-too-small").apply == "none", "the list needs its own"


def test_who_gives_a_share_is_idle_and_keeps_twice_what_it_holds():
    """A quarter of its memory, and no eviction; less than a quarter of what is wanted is not worth it."""
    happened = caches(search=counts(100, 900, 900, 500))
    held = {name: layer(name, limit_mib=12, size_mib=6) for name in ("list", "get", "requests")}
    search = layer("search", limit_mib=24, size_mib=24)
    tight = {"resident_bytes": 350 * MIB}

    def settings(**layers):
        snapshot = seen(layers=held | {"search": search} | layers, window=happened, process=tight)
        return only(snapshot, "cache-too-small").settings

    assert settings(list=layer("list", limit_mib=12, size_mib=3)) == {
        "cache.search_share": 0.5,
        "cache.list_share": 0.1,
    }
    assert "cache.memory_mb" in settings(list=layer("list", limit_mib=12, size_mib=3.01))
    assert "cache.memory_mb" in settings(list=layer("list", limit_mib=11.9, size_mib=2.97))


def test_a_cache_is_too_large_where_others_cannot_have_what_they_are_promised():
    """Big and empty alone harms nobody: what is empty takes no memory."""
    sizes = {name: layer(name, limit_mib=300 * share, size_mib=0.1) for name, share in LAYERS.items()}
    advice = only(seen(layers=sizes), "cache-too-large")
    assert advice.settings == {"cache.memory_mb": 16}
    assert advice.apply == "settings"
    assert found(seen(layers=sizes, process={"budget_bytes": 558 * MIB})) == {}
    assert found(seen(layers=sizes, window=caches(get=counts(evictions=1)))) == {}
    others = {name: layer(name, limit_mib=35, size_mib=0) for name in ("list", "get", "requests")}
    tenth = seen(layers=others | {"search": layer("search", limit_mib=195, size_mib=30)})
    assert only(tenth, "cache-too-large").settings == {"cache.memory_mb": 61}, "twice what it holds"
    used = others | {"search": layer("search", limit_mib=195, size_mib=30.1)}
    assert found(seen(layers=used)) == {}


def test_users_who_push_each_other_out_need_more_room():
    """Twice of it, live, or with a larger budget at a restart."""
    room = layer("warm", limit_mib=250, size_mib=200, limit_entries=0)
    happened = replace(healthy().window.warm, loads_held=50, evictions=25)
    snapshot = seen(layers={"warm": room}, window={"warm": happened})
    advice = only(snapshot, "warm-too-small")
    assert (advice.settings, advice.apply) == ({"index.memory_mb": 512}, "settings")
    assert figures(advice)["answered cold"] == "100 of 1000"
    tight = only(seen(snapshot, process={"resident_bytes": 150 * MIB + 1}), "warm-too-small")
    assert (tight.settings, tight.apply) == ({"index.memory_mb": 512, "memory.budget_mb": 512}, "none")
    few = replace(happened, loads_held=5, evictions=10)
    only(seen(layers={"warm": room}, window={"warm": few}), "warm-too-small")
    others = (
        replace(happened, evictions=24),
        replace(happened, loads_held=51),
        replace(few, evictions=9),
    )
    for other in others:
        assert found(seen(layers={"warm": room}, window={"warm": other})) == {}
    emptier = layer("warm", limit_mib=250, size_mib=199.9, limit_entries=0)
    assert found(seen(layers={"warm": emptier}, window={"warm": happened})) == {}


def test_a_budget_that_copies_leave_for_is_too_small():
    """After ten clean-ups or one emergency; it is not raised live."""
    warm = healthy().window.warm
    for happened in (replace(warm, clean_ups=10), replace(warm, emergencies=1)):
        advice = only(seen(window={"warm": happened}), "budget-too-small")
        assert advice.apply == "none"
        assert advice.settings["memory.budget_mb"] > 500
    assert found(seen(window={"warm": replace(warm, clean_ups=9)})) == {}


def stages(p95_ms, times=200):
    """The window's stages: comparing took so long."""
    return {"stages": [StageStats(work="search", stage="rank", times=times, mean_ms=1.0, p95_ms=p95_ms)]}


def test_a_flat_limit_that_makes_comparing_slow_is_lowered():
    """To half of the largest user; a smaller user is never what takes long."""
    large = {"largest_memories": 30_000}
    assert only(seen(warm=large, window=stages(25.0)), "flat-limit").settings == {"index.flat_limit": 15_000}
    assert found(seen(warm=large, window=stages(24.9))) == {}
    assert found(seen(warm=large, window=stages(25.0, times=199))) == {}
    assert found(seen(warm={"largest_memories": 9_999}, window=stages(25.0))) == {}
    only(seen(warm={"largest_memories": 10_000}, window=stages(25.0)), "flat-limit")


def test_a_graph_that_is_missing_or_not_needed_is_said():
    """Larger users without one; and a limit below what comparing all of them takes no time for."""
    alone = {"largest_memories": 40_001}
    assert "hnsw" in only(seen(warm=alone, window=stages(25.0)), "graph-missing").action
    assert found(seen(warm=alone | {"graph_users": 1}, window=stages(25.0))) == {}
    low = {"largest_memories": 5000, "graph_users": 1, "flat_limit": 1000}
    assert only(seen(warm=low, window=stages(5.0)), "flat-limit").settings == {"index.flat_limit": 40_000}
    assert found(seen(warm=low, window=stages(5.1))) == {}
    assert found(seen(warm=low | {"flat_limit": 40_000}, window=stages(5.0))) == {}


def test_a_pool_whose_connections_are_waited_for_is_too_small():
    """One in twenty waits, or one is refused, while all are in use."""
    waits = PoolCounts(taken=100, refused=0, waited=5, wait_p95_ms=6.0, busy_most=4)
    advice = only(seen(window={"pool": waits}), "pool-too-small")
    assert advice.settings == {"postgres.pool_max": 8}
    assert advice.apply == "none"
    only(seen(window={"pool": replace(waits, waited=0, refused=1)}), "pool-too-small")
    short = seen(window={"pool": waits}, database={"connections_free": 3})
    assert "max_connections" in only(short, "pool-too-small").action
    unasked = advise(replace(seen(window={"pool": waits}), database=None))
    assert [each.rule for each in unasked.advice] == ["pool-too-small"]
    enough = seen(window={"pool": waits}, database={"connections_free": 4})
    assert "max_connections" not in only(enough, "pool-too-small").action
    for other in (
        replace(waits, waited=4),
        replace(waits, taken=102),
        replace(waits, taken=99),
        replace(waits, busy_most=3),
    ):
        assert found(seen(window={"pool": other})) == {}


def test_a_pool_of_which_most_was_never_used_is_too_large():
    """Open connections count, not those that may be opened."""
    wide = {"limit": 40, "idle": 39, "used": 1}
    used = PoolCounts(taken=100, refused=0, waited=0, wait_p95_ms=0.1, busy_most=10)
    advice = only(seen(pool=wide, window={"pool": used}), "pool-too-large")
    assert advice.settings == {"postgres.pool_min": 20}
    assert figures(advice)["in use at once, at most"] == 10
    assert found(seen(pool=wide, window={"pool": replace(used, busy_most=11)})) == {}
    assert found(seen(pool=wide, window={"pool": replace(used, taken=99)})) == {}
    assert found(seen(pool=wide, window={"pool": replace(used, waited=1)})) == {}
    assert found(seen(pool=wide | {"idle": 19}, window={"pool": replace(used, busy_most=1)})) == {}
    only(seen(pool=wide | {"idle": 20}, window={"pool": replace(used, busy_most=1)}), "pool-too-large")


@pytest.mark.parametrize("state", ["missing", "invalid"])
def test_an_index_that_the_migrations_make_is_missed(state):
    """With the table's scans as evidence; nothing else is said of that table."""
    index = replace(healthy().database.indexes[0], state=state)
    scanned = table(scans=20, scanned_rows=200_000)
    advice = only(seen(database={"indexes": [index], "tables": [scanned]}), f"index-{state}")
    assert advice.names == ("memories_by_version",)
    assert advice.apply == "index"
    assert figures(advice)["scans of all of it"] == 20


def test_a_large_table_that_is_read_as_a_whole_is_named():
    """Often, mostly, lately; with stale statistics ANALYZE is the cure."""
    scanned = table(scans=20, scanned_rows=100_000)
    advice = only(seen(database={"tables": [scanned]}), "table-scanned")
    assert advice.apply == "none"
    stale = only(seen(database={"tables": [replace(scanned, changed_rows=2000)]}), "table-scanned")
    assert (stale.apply, stale.names) == ("analyze", ("memories",))
    fresh = only(seen(database={"tables": [replace(scanned, changed_rows=1999)]}), "table-scanned")
    assert fresh.apply == "none"
    only(seen(database={"tables": [replace(scanned, scanned_s=1800.0)]}), "table-scanned")
    for change in (
        {"scans": 19, "scanned_rows": 190_000},
        {"scanned_rows": 99_999},
        {"rows": 9999},
        {"scanned_s": None},
        {"scanned_s": 1801.0},
    ):
        assert found(seen(database={"tables": [replace(scanned, **change)]})) == {}, change


def test_slow_statements_are_named_by_the_time_that_they_take():
    """The five that took most of it."""
    slow = SlowStatement(text="SELECT $1", calls=20, mean_ms=50.0, total_ms=1000.0)
    assert only(seen(database={"statements": [slow]}), "statement-slow").subject == "SELECT $1"
    for other in (replace(slow, calls=19), replace(slow, mean_ms=49.9)):
        assert found(seen(database={"statements": [other]})) == {}
    many = [replace(slow, text=f"SELECT {number}", total_ms=float(number)) for number in range(7)]
    told = advise(seen(database={"statements": many})).advice
    assert [each.subject for each in told] == [f"SELECT {number}" for number in (6, 5, 4, 3, 2)]


def test_a_slow_operation_is_named_with_its_stage():
    """One in a hundred, five of them; the stage that most of them spent their time in says what to do."""
    slow = operation(requests=1000, slow=10, sql=6, rank=4)
    advice = only(seen(window={"operations": [slow]}, database={"waiting": 3}), "operation-slow")
    assert advice.subject == "POST /v1/search"
    assert "stage sql" in advice.finding
    assert "pg_stat_activity" in advice.action
    assert figures(advice)["sessions that wait for a lock now"] == 3
    assert (
        "index.flat_limit"
        in only(seen(window={"operations": [replace(slow, slow_stages={"rank": 10})]}), "operation-slow").action
    )
    assert found(seen(window={"operations": [replace(slow, slow=9)]})) == {}
    assert found(seen(window={"operations": [operation(requests=1001, slow=10, sql=10)]})) == {}
    assert found(seen(window={"operations": [operation(requests=20, slow=4, sql=4)]})) == {}
    few = only(seen(window={"operations": [operation(requests=20, slow=5, rank=5)]}), "operation-slow")
    assert "sessions that wait for a lock now" not in figures(few)
