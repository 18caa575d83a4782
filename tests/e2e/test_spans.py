"""Spans of a service of two workers; and a service that sends none, which knows nothing of OpenTelemetry."""

import time

import httpx
import pytest

from memfast.config import load

TRACE_ID = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
STOP_S = 0.2


def ask(service, number):
    """A new question, over a new connection; gives its status."""
    headers = {"traceparent": f"00-{TRACE_ID.hex()}-{number:016x}-01"}
    with httpx.Client(base_url=service.url, timeout=20, trust_env=False) as client:
        body = {"user_id": "ada", "query": f"kitchen {number}"}
        return client.post("/v1/search", json=body, headers=headers).status_code


def asked(receiver):
    """Of each span of a search: its parent, and the process that told of it."""
    found = {}
    for message in receiver.messages():
        for part in message.resource_spans:
            worker = {each.key: each.value.int_value for each in part.resource.attributes}["process.pid"]
            for library in part.scope_spans:
                for span in library.spans:
                    if span.name == "POST /v1/search":
                        assert span.trace_id == TRACE_ID
                        found[int.from_bytes(span.parent_span_id, "big")] = worker
    return found


@pytest.fixture
def foreign(base, monkeypatch):
    """Any import of OpenTelemetry writes a file and fails, in every process that is started; gives the file."""
    package, note = base / "path" / "opentelemetry", base / "imported"
    package.mkdir(parents=True)
    code = (
        f"import traceback\ntraceback.print_stack(file=open({str(note)!r}, 'w'))\nraise ImportError('not installed')\n"
    )
    (package / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(base / "path"), prepend=":")
    return note


def test_spans_of_two_workers_arrive(serve, data_dir, receiver, poll):
    """Those of each, while it runs; and what waited when it was stopped."""
    settings = {"telemetry_endpoint": receiver.url, "telemetry_interval_s": 0.05, "workers": 2}
    service = serve(data_dir(), **settings).wait_until_ready()
    service.remember("the kitchen is blue")
    number, workers = 0, set(service.workers())
    while set(asked(receiver).values()) != workers:
        number += 1
        assert number < 500, "one of the workers tells nothing"
        assert ask(service, number) == 200
    poll(lambda: len(asked(receiver)) == number)
    assert ask(service, 1000) == 200
    assert service.stop() == 0
    assert sorted(asked(receiver)) == [*range(1, number + 1), 1000]


def test_what_waits_is_sent_at_the_end(serve, data_dir, receiver):
    """Also where its time would have come much later."""
    settings = {"telemetry_endpoint": receiver.url, "telemetry_interval_s": 300, "telemetry_stop_timeout_s": 20}
    service = serve(data_dir(), **settings).wait_until_ready()
    assert ask(service, 1) == 200
    assert not receiver.bodies
    assert service.stop() == 0
    assert [*asked(receiver)] == [1]


def test_a_receiver_that_never_was_costs_nothing(serve, data_dir, free_port, gone):
    """Every request is answered, one line of the log says so, and the stop has its bound."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = {"telemetry_endpoint": url, "telemetry_interval_s": 0.05, "telemetry_stop_timeout_s": STOP_S}
    service = serve(data_dir(), **settings).wait_until_ready()
    assert all(ask(service, number) == 200 for number in range(1, 50))
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < load({}).config.telemetry.timeout_s, "a sending would have taken longer"
    told = [line for line in service.output.splitlines() if "memfast.tracing" in line]
    assert len([line for line in told if "spans were not sent" not in line]) <= 1
    assert "opentelemetry" not in service.output
    assert "Traceback" not in service.output


def test_without_a_receiver_nothing_of_opentelemetry_is_imported(serve, data_dir, foreign):
    """Not by the service and not by its workers, whatever callers send."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    assert all(ask(service, number) == 200 for number in range(1, 10))
    assert httpx.get(f"{service.url}/metrics", trust_env=False).status_code == 200
    assert service.stop() == 0
    assert not foreign.exists(), foreign.read_text()


def test_a_receiver_without_the_extra_is_an_error_of_the_configuration(command, base, foreign):
    """Before anything is begun, and it says what to do."""
    _, told = command("serve", data_dir=base / "data", telemetry_endpoint="http://127.0.0.1:4318", expect=2)
    assert 'pip install "memfast[otel]"' in told
    assert "telemetry.endpoint" in told
    assert foreign.exists()
    assert not (base / "data").exists()


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://me:secret@there", "http://"])
def test_an_address_that_is_none_is_refused(command, base, url):
    """By the name of its setting."""
    _, told = command("serve", data_dir=base / "data", telemetry_endpoint=url, expect=2)
    assert "telemetry.endpoint" in told
