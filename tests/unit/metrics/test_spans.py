"""Which requests become spans, and by which ids."""

import random

import pytest

from memfast.kernels import Trace
from memfast.metrics import CURRENT, NO_REQUEST, valid_parent
from memfast.metrics.spans import Sampler

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-2] + b"00"


def sampler(share=1.0):
    """With chances that are the same every time."""
    return Sampler(share, random.Random(7).getrandbits)


@pytest.fixture
def running():
    """Function: this trace is that of the running request."""
    tokens = []
    yield lambda trace: tokens.append(CURRENT.set(trace))
    for token in reversed(tokens):
        CURRENT.reset(token)


def test_a_caller_decides():
    """Its trace goes on where its flag says so, whatever our share is, and its other flags say nothing."""
    for flags, sampled in ((b"01", True), (b"00", False), (b"03", True), (b"02", False)):
        for share in (0.0, 1.0):
            ids = sampler(share).ids(valid_parent(PARENT[:-2] + flags))
            assert ids.sampled is sampled
            told = (0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7) if sampled else (0, 0)
            assert (ids.trace_id, ids.parent_id) == told
            assert (0 < ids.span_id < 2**64) is sampled


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_without_a_caller_a_share_is_traced(share):
    """So many of ten thousand, each with a trace of its own."""
    own = sampler(share)
    found = [own.ids(None) for _ in range(10_000)]
    assert abs(sum(ids.sampled for ids in found) - 10_000 * share) <= 120 * (0 < share < 1)
    assert len({ids.trace_id for ids in found}) == 10_000
    assert not any(ids.parent_id for ids in found)


def test_no_id_is_zero():
    """Zero is no id (W3C Trace Context, 3.2.2)."""
    ids = Sampler(1.0, lambda _bits: 0).ids(None)
    assert (ids.trace_id, ids.span_id) == (1, 1)


def test_a_call_has_the_requests_span_as_its_parent(running):
    """Also a call of a part of the request; and it is the one span of the request that is told of later."""
    own, request = sampler(), Trace(b"r-1", PARENT)
    part = Trace(b"r-1", PARENT)
    part.whole = request
    running(part)
    ids = own.of(request)
    assert own.outgoing() == PARENT[:36] + b"%016x-01" % ids.span_id
    assert valid_parent(own.outgoing()) == own.outgoing()
    assert own.of(request) is ids


def test_without_a_caller_a_call_begins_the_requests_trace(running):
    """Or nothing, where the request is not traced."""
    request = Trace(b"r-1")
    running(request)
    own = sampler()
    assert own.outgoing() == b"00-%032x-%016x-01" % own.of(request)[:2]
    running(Trace(b"r-2"))
    assert sampler(0.0).outgoing() is None


def test_a_trace_that_nobody_keeps_goes_on_as_it_came(running):
    """Whoever is called sees that it is not kept; work that no request waits for says nothing."""
    running(Trace(b"r-1", UNSAMPLED))
    assert sampler().outgoing() == UNSAMPLED
    running(NO_REQUEST)
    assert sampler().outgoing() is None
    assert NO_REQUEST.span is None
