"""The course of a call, without sockets and with a clock that the test moves."""

import random

import pytest

from memfast import Client, errors
from memfast.client.call import Call
from memfast.client.exchange import Answer, AnswerReader, Broken
from memfast.client.lines import LineSplitter, chunk
from memfast.client.session import Attempt, Pause
from memfast.client.tokens import Tokens

BUSY = Answer(
    503, {}, b'{"type":"urn:memfast:problem:overloaded","title":"x","status":503,"detail":"why"}', reusable=True
)


class World:
    """A client's session with a clock of its own."""

    def __init__(self, **settings):
        self.now = 100.0
        self.client = Client("http://host:1/prefix", clock=lambda: self.now, random=random.Random(1), **settings)
        self.session = self.client._session

    def course(self, answers, *, kind="write", **call):
        """The steps of a call that is given these answers; pauses and attempts move the clock."""
        steps = self.session.converse(
            Call(method="POST", target="/v1/x", read=lambda answer: answer.status, kind=kind, user_id="u", **call)
        )
        seen, answers = [], list(answers)
        try:
            step = next(steps)
            while True:
                seen.append(step)
                if isinstance(step, Pause):
                    self.now += step.seconds
                    step = next(steps)
                    continue
                answer = answers.pop(0)
                self.now += 0.001
                step = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as done:
            return seen, done.value
        except errors.MemfastError as error:
            return seen, error


@pytest.fixture
def world():
    """A session as clients have it."""
    return World()


def test_pauses_grow_and_are_drawn(world):
    """Each is a share of twice the one before, up to two seconds; no two calls pause alike."""
    seen, error = World(retries=9).course([BUSY] * 10)
    assert isinstance(error, errors.Overloaded)
    pauses = [step.seconds for step in seen if isinstance(step, Pause)]
    assert len(pauses) == 9
    assert all(0 <= pause <= min(2.0, 0.05 * 2**number) for number, pause in enumerate(pauses))
    assert max(pauses) > 0.5
    again = [step.seconds for step in world.course([BUSY] * 7)[0] if isinstance(step, Pause)]
    once_more = [step.seconds for step in world.course([BUSY] * 7)[0] if isinstance(step, Pause)]
    assert again != once_more


def test_every_try_of_a_write_has_its_key(world):
    """And each write another one."""
    requests = [
        step.request
        for _ in range(2)
        for step in world.course([BUSY, Broken("x", sent=True), Answer(200, {}, b"", reusable=True)])[0]
        if isinstance(step, Attempt)
    ]
    assert len(requests) == 6
    assert len(set(requests[:3])) == len(set(requests[3:])) == 1
    assert requests[0] != requests[3]
    assert b"POST /prefix/v1/x HTTP/1.1\r\nhost: host:1\r\n" in requests[0]


@pytest.mark.parametrize(
    ("answers", "kind", "error"),
    [
        ([Broken("x", sent=True)] * 7, "write", errors.OutcomeUnknown),
        ([Broken("x", sent=False)] * 7, "write", errors.ServiceUnreachable),
        ([Broken("x", sent=True)] * 7, "read", errors.ServiceUnreachable),
        ([Broken("x", sent=True), *[BUSY] * 6], "write", errors.OutcomeUnknown),
        ([BUSY] * 7, "write", errors.Overloaded),
        ([Broken("x", sent=True, late=True)], "write", errors.OutcomeUnknown),
        ([Broken("x", sent=True, late=True)], "read", errors.DeadlineExceeded),
        ([Broken("x", sent=False, late=True)], "write", errors.DeadlineExceeded),
    ],
)
def test_what_is_known_in_the_end_is_said(world, answers, kind, error):
    """A write is unknown when one of its tries may have happened, whatever came of the later ones."""
    assert type(world.course(answers, kind=kind)[1]) is error


def test_the_time_of_a_call_is_for_all_tries():
    """Each try has what is left, and is told so; what does not fit into it is not begun."""
    world = World(timeout_s=1.0)
    seen, error = world.course([BUSY] * 7)
    left = [step.timeout_s for step in seen if isinstance(step, Attempt)]
    assert len(left) > 3
    assert left == sorted(set(left), reverse=True)
    assert left[0] == 1.0
    assert b"memfast-timeout-ms: 1000\r\n" in seen[0].request
    assert isinstance(error, errors.Overloaded)
    assert world.now - 100.0 <= 1.0
    assert isinstance(world.course([], timeout_s=0.0)[1], errors.DeadlineExceeded)
    assert b"memfast-timeout-ms" not in World().course([BUSY] * 7)[0][0].request


def test_a_refusal_is_told_at_once(world):
    """What sending it again does not change is sent once."""
    body = b'{"type":"urn:memfast:problem:conflict","title":"x","status":409,"detail":"why","path":"$.id"}'
    seen, error = world.course([Answer(409, {}, body, reusable=True)])
    assert len(seen) == 1
    assert (type(error), error.path) == (errors.Conflict, "$.id")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "host:8077", "http://x:y", "http://x?y", "http://ä"])
def test_addresses_that_are_none_are_refused(url):
    """With the URL in the message."""
    with pytest.raises(errors.InvalidRequest, match="url"):
        Client(url)
    with pytest.raises(errors.InvalidRequest, match="api_key"):
        Client(api_key="a\nb")


def test_https_is_checked():
    """The default trusts the system's certificates and compares names."""
    tls = Client("https://host")._session.address.tls
    assert tls.check_hostname
    assert Client("https://host")._session.address.port == 443


def test_answers_come_in_any_pieces():
    """Byte by byte, one after another on a connection, with an interim one before, in chunks."""
    stream = (
        b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Name: v\r\n\r\nabc"
        b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )
    reader = AnswerReader()
    found = [reader.feed(stream[at : at + 1]) for at in range(len(stream))]
    whole = [answer for answer in found if answer is not None]
    assert [(answer.status, answer.body, answer.reusable) for answer in whole] == [
        (200, b"abc", True),
        (204, b"", True),
        (200, b"def", True),
        (200, b"", False),
    ]
    assert whole[0].headers == {b"content-length": b"3", b"x-name": b"v"}
    with pytest.raises(Broken):
        AnswerReader().feed(b"nonsense\r\n\r\n")


def test_lines_come_in_any_pieces():
    """None is cut and none joined; the end of a stream is known by its last line."""
    data = b'{"type":"memory"}\n{"a":"\xc3\xa9"}\n{"type":"trailer"}\n'
    for size in range(1, len(data) + 1):
        splitter = LineSplitter()
        lines = [line for at in range(0, len(data), size) for line in splitter.feed([data[at : at + size]])]
        assert lines == data.splitlines(keepends=True)
        splitter.finish(Answer(200, {}, b"", reusable=True))
    assert (chunk(b""), chunk(b"abc")) == (b"", b"3\r\nabc\r\n")


def test_tokens_are_bounded_and_never_go_back():
    """Of one life the higher version stays; another life's replaces it; the least recently used user goes."""
    tokens = Tokens(2)
    for token, kept in (("a.9", "a.9"), ("a.10", "a.10"), ("a.2", "a.10"), ("b.1", "b.1"), ("b.1", "b.1")):
        tokens.note("u", token)
        assert tokens.get("u") == kept
    tokens.note("v", "a.1")
    tokens.get("u")
    tokens.note("w", "a.1")
    assert (tokens.get("u"), tokens.get("v"), tokens.get("w")) == ("b.1", None, "a.1")
    tokens.drop("u", "a.1")
    assert tokens.get("u") == "b.1"
    tokens.drop("u", "b.1")
    assert tokens.get("u") is None
