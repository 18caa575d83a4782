"""What Prometheus reads: valid, complete, and true for all workers."""

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from memfast.metrics import FAMILIES, REQUESTS, Board, Meter, Operation
from memfast.metrics.exposition import OPENMETRICS, PLAIN, BoardCollector, render

ROUTES = [Operation("POST", "/v1/search", tiered=True), Operation("GET", "/v1/users/{user_id}")]


@pytest.fixture
def meters(tmp_path):
    """Two workers' meters over one board."""
    Board.create(tmp_path / "metrics", 2)
    opened = [Meter(Board.open(tmp_path / "metrics"), ROUTES) for _ in range(2)]
    yield opened
    for meter in opened:
        meter.close()


def collector(meter, now_s=100.0):
    """As a worker makes it for a scrape."""
    return BoardCollector(meter.board, meter.layout, lambda: now_s, {"version": "1.2.3"})


def samples(meter, now_s=100.0):
    """Every sample by name and labels."""
    text, content_type = render(collector(meter, now_s), "text/plain")
    assert content_type == PLAIN
    found = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, "no sample twice"
            found[key] = sample.value
    return found


def test_counters_and_histograms_are_summed(meters):
    """Whichever worker is asked, and whoever lives."""
    for meter in meters:
        meter.counter("memfast_cache_hits", "search").add(3)
        meter.histogram(REQUESTS, "POST", "/v1/search", "warm", "2xx").observe(0.003)
    meters[0].histogram(REQUESTS, "POST", "/v1/search", "warm", "2xx").observe(60)
    meters[0].board.beat(0, 1.0)
    for meter in meters:
        found = samples(meter)
        assert found["memfast_cache_hits_total", ("layer", "search")] == 6
        labels = (("method", "POST"), ("route", "/v1/search"), ("status", "2xx"), ("tier", "warm"))
        assert found[f"{REQUESTS}_count", *labels] == 3
        assert found[f"{REQUESTS}_sum", *labels] == pytest.approx(60.006)
        assert found[f"{REQUESTS}_bucket", ("le", "0.005"), *labels] == 2
        assert found[f"{REQUESTS}_bucket", ("le", "0.0025"), *labels] == 0
        assert found[f"{REQUESTS}_bucket", ("le", "10.0"), *labels] == 2
        assert found[f"{REQUESTS}_bucket", ("le", "+Inf"), *labels] == 3


def test_gauges_are_of_the_living(meters):
    """Added, or the largest, or one for each worker; those of a worker that is gone are not there."""
    for worker, meter in enumerate(meters, 1):
        meter.counter("memfast_warm_users").set(worker)
        meter.counter("memfast_copies_unconfirmed_seconds").set(worker)
        meter.counter("memfast_worker_open_fds").set(worker)
        meter.board.beat(meter.row.number, 100.0)
    found = samples(meters[0])
    assert (found["memfast_warm_users",], found["memfast_copies_unconfirmed_seconds",]) == (3, 2)
    assert found["memfast_worker_open_fds", ("worker", "0")] == 1
    assert found["memfast_workers",] == 2
    meters[1].board.beat(1, 200.0)
    found = samples(meters[0], 200.0)
    assert (found["memfast_warm_users",], found["memfast_workers",]) == (2, 1)
    assert ("memfast_worker_open_fds", ("worker", "0")) not in found


def test_routes_that_nobody_asked_are_left_out(meters):
    """Everything else stands there from the start, so that a rate sees the first event."""
    names = {name for name, *_ in samples(meters[0])}
    assert not any(name.startswith(REQUESTS) for name in names)
    for family in FAMILIES:
        ending = {"counter": "_total", "histogram": "_bucket", "gauge": ""}[family.kind]
        assert family.name + ending in names or family.over == "worker"


def test_openmetrics_is_for_those_who_accept_it(meters):
    """As Prometheus asks for it; it ends with EOF."""
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    text, content_type = render(collector(meters[0]), accept)
    assert content_type == OPENMETRICS
    assert text.endswith(b"# EOF\n")
    assert {family.name for family in FAMILIES} <= {family.name for family in parse_openmetrics(text.decode())}


def test_names_follow_the_conventions():
    """A prefix, snake case, a base unit or a thing at the end, a sentence that says what it is."""
    for family in FAMILIES:
        assert family.name.startswith("memfast_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms", "_us", "_mb"))
        assert family.text.endswith(".")
        assert len(set(family.series)) == len(family.series)
        assert all(len(series) == len(family.labels) for series in family.series)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_promtool_has_nothing_to_say(meters):
    """Its linter takes every metric as it is."""
    for route in ROUTES:
        meters[0].histogram(REQUESTS, route.method, route.route, "none", "2xx").observe(0.1)
    meters[0].board.beat(0, 100.0)
    text, _ = render(collector(meters[0]), "")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
