"""What becomes of spans: sent in batches, dropped and counted where they cannot be, and never waited for."""

import contextlib
import logging
import random
import time

import pytest

from memfast.config import TelemetryConfig
from memfast.metrics import Board, Meter
from memfast.ports.spans import RequestSpan
from memfast.tracing.export import SpanExport
from memfast.tracing.seldom import PAUSE_S, Seldom

ENOUGH_S = 20.0


def span(number=1, stages=(), **more):
    """A request that took a second."""
    fields = {"name": "GET /x", "trace_id": 7, "span_id": number, "parent_id": 0, "end_ns": 3 * 10**9, "took_s": 1.0}
    return RequestSpan(**fields, **{"failed": False, "attributes": {}, "stages": stages} | more)


@pytest.fixture
def export():
    """Function: an export with these settings, and what reads a count of it. Closed at the end."""
    with contextlib.ExitStack() as stack:

        def opened(url, **settings):
            settings = {"interval_s": 0.02, "timeout_s": 5.0, "stop_timeout_s": ENOUGH_S} | settings
            meter = Meter(Board.private())
            made = SpanExport(TelemetryConfig(endpoint=url, **settings), meter, random.getrandbits)
            stack.callback(made.close)
            return made, lambda result: meter.counter("memfast_spans", result).value

        yield opened


def until(condition):
    """Wait for it, within a bound."""
    deadline = time.monotonic() + ENOUGH_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def test_spans_arrive_in_batches(export, receiver):
    """With their times, as children of theirs, at the path of the protocol; more than a batch in several requests."""
    made, count = export(f"{receiver.url}/", interval_s=300.0)
    for number in range(1, 601):
        made.tell(span(number, [("embed", 0.25, 0.5)], failed=number == 2, attributes={"a": 1, "b": ["x"]}))
    made.close()
    assert set(receiver.paths) == {"/v1/traces"}
    assert len(receiver.bodies) > 2
    got = receiver.spans()
    assert len(got) == 1200 == count("exported")
    first = next(each for each in got if each.span_id == (1).to_bytes(8, "big"))
    assert (first.kind, first.start_time_unix_nano, first.end_time_unix_nano) == (2, 2 * 10**9, 3 * 10**9)
    assert {each.key for each in first.attributes} == {"a", "b"}
    child = next(each for each in got if each.parent_span_id == first.span_id)
    assert (child.name, child.start_time_unix_nano, child.end_time_unix_nano) == ("embed", 2_250_000_000, 2_750_000_000)
    assert [each.span_id[-1] for each in got if each.status.code == 2] == [2]
    assert count("dropped") == count("failed") == 0


def test_what_finds_no_room_is_dropped_and_counted(export, receiver, caplog):
    """The receiver takes a batch and says nothing: what waits has a bound, and telling never waits."""
    receiver.answers.clear()
    made, count = export(receiver.url, queue_spans=100)
    made.tell(span())
    assert receiver.asked.wait(ENOUGH_S)
    for number in range(2, 1002):
        made.tell(span(number, [("rank", 0.0, 0.1)]))
    assert count("dropped") == 2 * (1000 - 50)
    receiver.answers.set()
    made.close()
    assert count("exported") == 101 == len(receiver.spans())
    assert "Queue full" not in caplog.text


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "is silent"])
def test_a_stop_does_not_wait_for_a_receiver_that_is_away(export, receiver, silent):
    """It gives up after its time, counts what it had, and leaves the SDK's log as it was."""
    receiver.answers.clear()
    url = receiver.url if silent else "http://127.0.0.1:9"
    made, count = export(url, stop_timeout_s=0.2, timeout_s=60.0)
    for number in range(1, 11):
        made.tell(span(number))
    if silent:
        assert receiver.asked.wait(ENOUGH_S)
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 10, "not the minute that a sending may take"
    assert count("dropped") == 10
    assert logging.getLogger("opentelemetry").propagate
    made.close()
    assert (count("dropped"), count("exported"), count("failed")) == (10, 0, 0)


def test_a_receiver_that_is_away_is_told_of_once(export, caplog):
    """The SDK speaks of every try; the spans are counted."""
    made, count = export("http://127.0.0.1:9", timeout_s=0.05)
    for number in range(1, 6):
        made.tell(span(number))
        until(lambda number=number: count("failed") == number)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in told] == ["memfast.tracing"]


def test_the_log_is_told_again_after_a_while(caplog):
    """Of a receiver that is still away, whatever was said in between."""
    now = [1000.0]
    seldom = Seldom(lambda: now[0])
    try:
        for text, later_s in (("one", 0), ("two", PAUSE_S - 1), ("three", 1), ("four", 1)):
            now[0] += later_s
            logging.getLogger("opentelemetry.sdk.anything").warning(text)
    finally:
        seldom.close()
    assert [record.args[0] for record in caplog.records] == ["one", "three"]
    logging.getLogger("opentelemetry.sdk.anything").warning("five")
    assert caplog.records[-1].message == "five"


def test_the_standard_variables_are_heeded(export, receiver, monkeypatch):
    """Headers, compression and the names of the service, as every program with this SDK reads them."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "recall")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    made, _ = export(f"{receiver.url}/v1/traces")
    made.tell(span())
    made.close()
    assert receiver.paths == ["/v1/traces"]
    assert receiver.headers[0]["authorization"] == "Bearer secret"
    resource = {
        each.key: each.value.string_value for each in receiver.messages()[0].resource_spans[0].resource.attributes
    }
    assert (resource["service.name"], resource["deployment.environment"]) == ("recall", "test")
    assert {"service.version", "service.instance.id", "process.pid", "telemetry.sdk.name"} <= resource.keys()
