"""Statistics of the last minutes: what NumPy says of the same numbers, as finely as the buckets are."""

import numpy as np
import pytest

from memfast.metrics import REQUESTS, Board, Meter, Operation
from memfast.metrics.families import SECONDS, SLOW
from memfast.metrics.statistics import quantile, window_stats
from memfast.metrics.uses import layers_in_use

SEARCH = Operation("POST", "/v1/search", tiered=True, stages=("sql", "rank"))
USERS = Operation("GET", "/v1/users")


@pytest.fixture
def meter():
    """A worker's meter whose first sign of life was at 1,000 s."""
    made = Meter(Board.private(), [SEARCH, USERS])
    made.board.beat(0, 1000.0)
    return made


def _observe(meter, operation, seconds, tier="none", status="2xx"):
    meter.histogram(REQUESTS, operation.method, operation.route, tier, status).observe(seconds)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.99, 1.0])
def test_quantiles_are_those_of_the_values(share):
    """Within the bucket that the true one is in."""
    values = np.random.default_rng(1).lognormal(-5, 1.5, 20_000)
    counts = np.bincount(np.searchsorted(SECONDS, values), minlength=len(SECONDS) + 1)
    true, found = np.quantile(values, share), quantile(SECONDS, counts.tolist(), share)
    place = np.searchsorted(SECONDS, true)
    assert (SECONDS[place - 1] if place else 0) <= found <= SECONDS[min(place, len(SECONDS) - 1)]


def test_quantiles_of_little():
    """None is 0, what is above every bound is the last one."""
    assert quantile((1.0, 2.0), (0, 0, 0), 0.5) == 0
    assert quantile((1.0, 2.0), (0, 0, 3), 0.5) == 2
    assert quantile((1.0, 2.0), (0, 4, 0), 0.5) == 1.5


def test_a_window_tells_what_happened_in_it(meter):
    """Not what was before: requests, rates, times, tiers, errors, hits, processor time."""
    for _ in range(50):
        _observe(meter, USERS, 5.0)
    for second in range(1001, 1101):
        meter.board.beat(0, float(second))
    told = [window_stats(meter.board, meter.layout, 1100.0, minutes).requests for minutes in (1, 5)]
    assert told == [0, 50]
    for second in range(1101, 1301):
        if second > 1240:
            _observe(meter, SEARCH, 0.002, "warm")
            _observe(meter, SEARCH, 0.002, "hot")
            meter.counter("memfast_cache_hits", "search").add(3)
            meter.counter("memfast_cache_misses", "search").add(1)
            meter.counter("memfast_worker_cpu_seconds", "user").add(0.5)
        meter.board.beat(0, float(second))
    _observe(meter, SEARCH, 0.5, status="5xx")
    _observe(meter, SEARCH, 0.002, status="4xx")
    window = window_stats(meter.board, meter.layout, 1300.0, 1)
    assert window.seconds == 60
    (search,) = window.operations
    assert (search.method, search.route, search.requests) == ("POST", "/v1/search", 122)
    assert search.tiers == {"hot": 60, "warm": 60}
    assert (search.refused, search.failed, search.error_rate) == (1, 1, round(1 / 122, 4))
    assert (search.slow, search.slow_stages, window.slow) == (0, {}, 0)
    assert search.per_second == pytest.approx(122 / 60, abs=1e-3)
    assert search.mean_ms == pytest.approx((121 * 2 + 500) / 122, abs=1e-3)
    assert 1 <= search.p50_ms <= 2.5
    assert 1 <= search.p99_ms <= 2.5
    assert window.hit_rates == {"search": 0.75}
    assert window.cpu_cores == pytest.approx(0.5)
    long = window_stats(meter.board, meter.layout, 1300.0, 60)
    assert (long.seconds, long.requests) == (300, 172), "no more than the service has lived"
    total = window_stats(meter.board, meter.layout, 1300.0, 0)
    assert (total.seconds, total.requests) == (300, 172)


def test_slow_operations_are_told_with_the_stage_that_took_longest(meter):
    """How many of which operation, most first; and what each stage took, of searches and of writes."""
    for stage, times in (("rank", 1), ("sql", 3), ("none", 2)):
        meter.counter(SLOW, "POST", "/v1/search", stage).add(times)
    meter.counter(SLOW, "GET", "/v1/users", "none").add()
    _observe(meter, SEARCH, 0.3, "cold")
    for _ in range(3):
        meter.histogram("memfast_search_stage_duration_seconds", "sql").observe(0.2)
        meter.histogram("memfast_write_stage_duration_seconds", "wait").observe(0.002)
    window = window_stats(meter.board, meter.layout, 1000.0, 0)
    (search,) = window.operations
    assert (search.slow, list(search.slow_stages.items())) == (6, [("sql", 3), ("none", 2), ("rank", 1)])
    assert [(each.work, each.stage, each.times, each.mean_ms) for each in window.stages] == [
        ("search", "sql", 3, 200.0),
        ("write", "wait", 3, 2.0),
    ]
    assert 100 <= window.stages[0].p95_ms <= 250


def test_the_age_of_a_layer_is_that_of_all_workers_entries(tmp_path):
    """Their mean counts every entry alike, the oldest is the oldest of any worker; who is gone holds nothing."""
    Board.create(tmp_path / "metrics", 3)
    workers = [Meter(Board.open(tmp_path / "metrics"), [SEARCH]) for _ in range(3)]
    try:
        for meter, entries, age_s, oldest_s in zip(workers, (1, 3, 5), (10, 6, 99), (10, 4, 99), strict=True):
            for name, value in (
                ("entries", entries),
                ("bytes", 100),
                ("age_seconds", age_s),
                ("oldest_seconds", oldest_s),
            ):
                meter.counter(f"memfast_cache_{name}", "search").set(value)
        board = workers[0].board
        found = {each.layer: each for each in layers_in_use(board.rows[[0, 1]], workers[0].layout)}
        assert (found["search"].entries, found["search"].bytes) == (4, 200)
        assert (found["search"].mean_age_s, found["search"].oldest_age_s) == (4.0, 10.0)
        assert (found["warm"].entries, found["warm"].mean_age_s, found["warm"].oldest_age_s) == (0, 0.0, 0.0)
        assert list(found) == ["warm", "search", "list", "get", "requests", "embeddings"]
        assert layers_in_use(board.rows[[]], workers[0].layout)[0].oldest_age_s == 0
    finally:
        for meter in workers:
            meter.close()


def test_nothing_is_zero(meter):
    """A service that nobody asks divides by nothing."""
    window = window_stats(meter.board, meter.layout, 1000.0, 5)
    assert (window.requests, window.per_second, window.error_rate, window.operations) == (0, 0, 0, [])


def test_a_window_tells_of_caches_connections_and_users_in_memory(meter):
    """What was let go and asked for again; waits from 5 ms on; the most connections at once, as finely as the buckets."""
    idle = window_stats(meter.board, meter.layout, 1100.0, 0)
    assert idle.pool.busy_most == idle.pool.taken == idle.caches["get"].hits == 0
    for name, number in (("hits", 5), ("misses", 4), ("evictions", 3), ("recalls", 2)):
        meter.counter(f"memfast_cache_{name}", "list").add(number)
    waits, busy = (
        meter.histogram(f"memfast_pool_{name}", "work") for name in ("acquire_duration_seconds", "busy_connections")
    )
    for wait_s, in_use in ((0.00001, 1), (0.005, 2), (0.0051, 5), (3.0, 2)):
        waits.observe(wait_s)
        busy.observe(in_use)
    meter.counter("memfast_pool_refused", "work").add(7)
    meter.counter("memfast_warm_loads", "held").add(6)
    meter.counter("memfast_memory_clean_ups", "critical").add(1)
    told = window_stats(meter.board, meter.layout, 1100.0, 0)
    cache, pool, warm = told.caches["list"], told.pool, told.warm
    assert (cache.hits, cache.misses, cache.evictions, cache.recalls) == (5, 4, 3, 2)
    assert (pool.taken, pool.waited, pool.refused, pool.busy_most) == (4, 2, 7, 6)
    assert (warm.loads_held, warm.loads_refused, warm.emergencies, warm.clean_ups) == (6, 0, 1, 0)
    busy.observe(101)
    assert window_stats(meter.board, meter.layout, 1100.0, 0).pool.busy_most == 200, "more than the last bound"
