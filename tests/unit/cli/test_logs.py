"""Lines of the log: their fields, their request, and what of an error they leave out."""

import io
import json
import logging

import pytest

from memfast.cli.logs import ConsoleFormatter, JsonFormatter
from memfast.errors import StoreUnavailable
from memfast.kernels import Trace
from memfast.metrics import CURRENT

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CANARY = "wombat-7731"


@pytest.fixture
def logger():
    """Function: a logger with a formatter, and where its lines go."""
    made = []

    def make(formatter):
        output = io.StringIO()
        handler = logging.StreamHandler(output)
        handler.setFormatter(formatter)
        log = logging.getLogger("memfast.tested")
        log.handlers[:] = [handler]
        made.append(handler)
        return log, output

    yield make
    logging.getLogger("memfast.tested").handlers.clear()
    for handler in made:
        handler.close()


@pytest.fixture
def request_under_way():
    """The context of a request with a trace."""
    token = CURRENT.set(Trace(b"r-17", PARENT))
    yield
    CURRENT.reset(token)


@pytest.mark.usefixtures("request_under_way")
def test_a_line_names_its_request_and_trace(logger):
    """In both forms; fields of the line itself come first."""
    log, output = logger(JsonFormatter())
    log.warning("late by %d", 3, extra={"fields": {"took_ms": 7.5, "stages_ms": {"sql": 7.0}}})
    line = json.loads(output.getvalue())
    assert line.pop("at")
    assert line == {
        "level": "warning",
        "logger": "memfast.tested",
        "message": "late by 3",
        "took_ms": 7.5,
        "stages_ms": {"sql": 7.0},
        "request_id": "r-17",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    log, output = logger(ConsoleFormatter())
    log.warning("late", extra={"fields": {"stages_ms": {"sql": 7.0}, "degraded": ["vector"]}})
    assert output.getvalue().endswith(
        "memfast.tested: late stages_ms=sql:7.0 degraded=vector request_id=r-17"
        " trace_id=4bf92f3577b34da6a3ce929d0e0e4736\n"
    )


def test_a_line_without_a_request_has_none(logger):
    """Background work belongs to nobody."""
    log, output = logger(JsonFormatter())
    log.warning("swept")
    assert not {"request_id", "trace_id"} & set(json.loads(output.getvalue()))


def failing():
    """An error of ours, from one of a driver that quotes what it was given; in a group."""
    try:
        int(CANARY)
    except ValueError as error:
        away = StoreUnavailable("PostgreSQL is away")
        away.__cause__ = error
    raise ExceptionGroup(f"two of {CANARY}", [away, KeyError(CANARY)])


@pytest.mark.parametrize("formatter", [JsonFormatter, ConsoleFormatter])
def test_texts_of_foreign_errors_are_left_out(logger, formatter):
    """Their types and traces stand there, and the texts of ours; all of it only if that is asked for."""
    for quotes in (False, True):
        log, output = logger(formatter(quotes=quotes))
        try:
            failing()
        except ExceptionGroup:
            log.exception("it failed")
        told = output.getvalue()
        assert (CANARY in told) is quotes
        for part in ("ExceptionGroup", "KeyError", "ValueError", "StoreUnavailable: PostgreSQL is away", "in failing"):
            assert part in told
