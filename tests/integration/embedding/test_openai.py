"""The endpoint's client against a real server that behaves, misbehaves, stalls, or is not there."""

import asyncio
import json
import socket
import sys
import traceback

import numpy as np
import pytest

from memfast.embedding.openai import OpenAIEmbedder
from memfast.errors import ConfigError, EmbedderUnavailable, InvalidRequest

peer = sys.modules["embedding_endpoint"]
DIMENSIONS = peer.DIMENSIONS
KEY = "sk-secret-0123456789"
TEXT = "something private"


@pytest.fixture
async def make(endpoint):
    """Make clients of the endpoint; all are closed afterwards."""
    made = []

    def embedder(**arguments):
        settings = {
            "base_url": endpoint.base_url,
            "model": "test-model",
            "dimensions": DIMENSIONS,
            "api_key": KEY,
        }
        made.append(OpenAIEmbedder(**settings | arguments))
        return made[-1]

    yield embedder
    for each in made:
        await each.close()


def expected(texts):
    """The unit vectors of the endpoint's model."""
    rows = np.array([peer.vector_of(text) for text in texts], dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


async def refusal(embedder, texts=(TEXT,)):
    """The error of a call, after checking that neither key nor text is in it or in its traceback."""
    with pytest.raises(EmbedderUnavailable) as caught:
        await embedder.embed(list(texts))
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value)
    assert KEY not in told
    assert TEXT not in told
    assert embedder._place in str(caught.value)
    return caught.value


def status(code, *, headers=None, body=None):
    """An endpoint that answers a status and quotes key and text, as some do."""
    quote = body or json.dumps({"error": {"message": f"bad key {KEY} for {TEXT}"}})
    return lambda request: peer.Reply(quote.encode(), code, headers or {})


async def test_the_request_is_the_protocols(endpoint, make):
    """Path, key, model, texts and format go out; unit rows in the order of the texts come back."""
    embedder = make(base_url=endpoint.base_url + "/")
    rows = await embedder.embed(["b", "a"])
    assert endpoint.paths == ["/v1/embeddings"]
    assert endpoint.requests == [{"model": "test-model", "input": ["b", "a"], "encoding_format": "base64"}]
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    assert endpoint.headers[0]["content-type"] == "application/json"
    np.testing.assert_allclose(rows, expected(["b", "a"]), atol=1e-6)
    assert embedder.model == "openai/test-model"


async def test_optional_fields(endpoint, make):
    """No key, no header; `dimensions` and the format go out only as set."""
    await make(api_key="", send_dimensions=True, encoding_format="").embed(["a"])
    assert "authorization" not in endpoint.headers[0]
    assert endpoint.requests == [{"model": "test-model", "input": ["a"], "dimensions": DIMENSIONS}]


@pytest.mark.parametrize("form", ["base64", "float"])
async def test_either_form_of_answer_gives_the_same_bytes(endpoint, make, form):
    """An endpoint may ignore the format that was asked for."""
    asked = await make().embed(["a", "b"])
    endpoint.answer = lambda request: peer.embeddings(request, form=form)
    assert (await make().embed(["a", "b"])).tobytes() == asked.tobytes()


async def test_rows_are_ordered_by_index(endpoint, make):
    """Not by their place in the answer."""

    def reversed_rows(request):
        return peer.listing(json.loads(peer.embeddings(request).body)["data"][::-1])

    endpoint.answer = reversed_rows
    rows = await make().embed(["a", "b", "c"])
    np.testing.assert_allclose(rows, expected(["a", "b", "c"]), atol=1e-6)


async def test_a_large_answer_is_decoded_right(endpoint, make):
    """Answers past the inline limit go through a thread and come back the same."""
    endpoint.answer = lambda request: peer.embeddings(request, form="float", dimensions=1536)
    texts = [f"text {i}" for i in range(60)]
    rows = await make(dimensions=1536).embed(texts)
    assert rows.shape == (60, 1536)
    vector = peer.vector_of("text 59", 1536).astype(np.float64)
    np.testing.assert_allclose(rows[59], vector / np.linalg.norm(vector), atol=1e-6)


async def test_equal_texts_are_sent_once(endpoint, make):
    """And each gets its row."""
    rows = await make().embed(["a", "b", "a", "a"])
    assert [request["input"] for request in endpoint.requests] == [["a", "b"]]
    np.testing.assert_allclose(rows, expected(["a", "b", "a", "a"]), atol=1e-6)


async def test_many_texts_go_in_bounded_requests_over_few_connections(endpoint, make):
    """230 texts by 20: twelve requests, four at once over four connections, rows in order."""
    texts = [f"text {i}" for i in range(230)]
    endpoint.release.clear()
    call = asyncio.create_task(make(batch_size=20).embed(texts))
    await endpoint.wait_for_waiting(4)
    endpoint.release.set()
    np.testing.assert_allclose(await call, expected(texts), atol=1e-6)
    assert sorted(len(request["input"]) for request in endpoint.requests) == [10] + [20] * 11
    assert endpoint.most_waiting == 4
    assert endpoint.connections == 4


async def test_long_texts_are_spread_over_requests(endpoint, make):
    """A request is bounded in bytes too: ten texts of 64 KiB are four requests."""
    await make().embed([str(i) * 65_536 for i in range(10)])
    assert sorted(len(request["input"]) for request in endpoint.requests) == [1, 3, 3, 3]


async def test_connections_are_kept_and_shared(endpoint, make):
    """Calls one after another use one connection, also after a refusal."""
    embedder = make()
    await embedder.check()
    endpoint.answer = status(500)
    await refusal(embedder)
    endpoint.answer = peer.embeddings
    for i in range(5):
        await embedder.embed([f"text {i}"])
    assert endpoint.connections == 1
    assert len(endpoint.requests) == 7


async def test_first_callers_share_one_client(endpoint, make):
    """Ten first calls at the same time, a pool of three: never more than three connections."""
    embedder = make(pool_connections=3)
    endpoint.release.clear()
    calls = [asyncio.create_task(embedder.embed([f"text {i}"])) for i in range(10)]
    await endpoint.wait_for_waiting(3)
    endpoint.release.set()
    rows = await asyncio.gather(*calls)
    np.testing.assert_allclose(np.concatenate(rows), expected([f"text {i}" for i in range(10)]), atol=1e-6)
    assert endpoint.connections == 3


async def test_the_wait_for_a_connection_is_bounded(endpoint, make):
    """All connections busy: the call fails after its wait and says so; the busy one goes on."""
    embedder = make(pool_connections=1, pool_timeout_s=0.05)
    endpoint.release.clear()
    first = asyncio.create_task(embedder.embed(["a"]))
    await endpoint.wait_for_waiting(1)
    assert "no free connection for 0.05 s: all 1 are in use" in str(await refusal(embedder))
    endpoint.release.set()
    assert (await first).shape == (1, DIMENSIONS)


async def test_a_silent_endpoint_times_out(endpoint, make):
    """No answer at all is an error after the time that is set."""
    endpoint.release.clear()
    assert "did not answer within 0.2 s" in str(await refusal(make(timeout_s=0.2)))
    endpoint.release.set()
    await make().embed([TEXT])


async def test_an_answer_that_stops_times_out(endpoint, make):
    """Half an answer and then silence is bounded as well."""

    def half(request):
        reply = peer.embeddings(request)
        reply.cut_after = 40
        return reply

    endpoint.answer = half
    assert "did not answer within 0.2 s" in str(await refusal(make(timeout_s=0.2)))


async def test_an_answer_that_drips_times_out(endpoint, make):
    """A byte now and then keeps every single read alive; the whole exchange is bounded all the same."""

    def drip(request):
        return peer.Reply(b"{" + b" " * 500_000, cut_after=1, drip_s=0.02)

    endpoint.answer = drip
    async with asyncio.timeout(20):
        assert "did not answer within 0.5 s" in str(await refusal(make(timeout_s=0.5)))


async def test_nobody_listens(make):
    """A refused connection names the address and the setting; nothing is remembered."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        embedder = make(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        error = await refusal(embedder)
    assert "cannot be reached" in str(error)
    assert "embedding.base_url" in str(error)


async def test_an_endpoint_that_hangs_up(endpoint, make):
    """A connection closed in the middle of an answer is a clear error."""

    def short(request):
        reply = peer.embeddings(request)
        reply.headers["Connection"] = "close"
        reply.cut_after = 40
        asyncio.get_running_loop().call_soon(lambda: [task.cancel() for task in endpoint._tasks])
        return reply

    endpoint.answer = short
    assert "broke the exchange off" in str(await refusal(make()))


@pytest.mark.parametrize(
    ("answer", "detail", "retry_after_s"),
    [
        (status(401), "refused the key: set embedding.api_key", 30),
        (status(403), "refused the key", 30),
        (status(404), "knows no 'test-model' or no such path", 30),
        (status(400), "a text may be too long for test-model", 30),
        (
            status(400, body="unknown field encoding_format"),
            "rejects the field `encoding_format` = 'base64'",
            30,
        ),
        (status(422, body="extra fields: dimensions"), "set embedding.send_dimensions = false", 30),
        (status(413), "lower embedding.batch_size", 30),
        (status(429), "limits the rate", 1),
        (status(429, headers={"Retry-After": "17"}), "limits the rate", 17),
        (status(429, headers={"Retry-After": "0.2"}), "limits the rate", 1),
        (status(429, headers={"Retry-After": "2.5"}), "limits the rate", 3),
        (status(429, headers={"Retry-After": "999999"}), "limits the rate", 3600),
        (status(429, headers={"Retry-After": "-5"}), "limits the rate", 1),
        (status(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), "limits the rate", 1),
        (status(500), "failed (HTTP 500)", 1),
        (status(503, headers={"Retry-After": "9"}), "failed (HTTP 503)", 9),
        (
            status(307, headers={"Location": "http://127.0.0.1:1/"}),
            "did not embed: check embedding.base_url",
            30,
        ),
    ],
)
async def test_refusals_say_what_to_do(endpoint, make, answer, detail, retry_after_s):
    """Each status in our own words, with a hint when to come back; the next call asks again."""
    endpoint.answer = answer
    embedder = make(send_dimensions=True)
    error = await refusal(embedder)
    assert detail in str(error)
    assert error.retry_after_s == retry_after_s
    endpoint.answer = peer.embeddings
    np.testing.assert_allclose(await embedder.embed([TEXT]), expected([TEXT]), atol=1e-6)


def row(index, embedding):
    """One row of an answer."""
    return {"index": index, "embedding": embedding}


def rows_of(*rows):
    """An endpoint that always answers these rows."""
    return lambda request: peer.listing(list(rows))


ONES = [1.0] * DIMENSIONS
NOT_FINITE = np.array([1, np.nan, *ONES[2:]], dtype=np.float32)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (rows_of(row(0, ONES)), "sent 1 vectors for 2 texts"),
        (rows_of(row(0, ONES), row(1, ONES), row(2, ONES)), "sent 3 vectors for 2 texts"),
        (rows_of(row(0, ONES), row(0, ONES)), "sent index 0 twice or out of 0..1"),
        (rows_of(row(0, ONES), row(-1, ONES)), "sent index -1 twice or out of 0..1"),
        (rows_of(row(1, ONES), row(2, ONES)), "sent index 2 twice or out of 0..1"),
        (
            rows_of(row(0, ONES), row(1, ONES[1:])),
            "sent a vector of 7 numbers, not 8: set embedding.dimensions",
        ),
        (rows_of(row(0, ONES), row(1, [])), "sent a vector of 0 numbers, not 8"),
        (rows_of(row(0, ONES), row(1, "AACAPw==")), "sent a vector of 1 numbers, not 8"),
        (rows_of(row(0, ONES), row(1, "AACA")), "not base64 of float32"),
        (rows_of(row(0, ONES), row(1, "not base64!")), "not base64 of float32"),
        (rows_of(row(0, ONES), row(1, "é")), "not base64 of float32"),
        (rows_of(row(0, ONES), row(1, peer.as_form(NOT_FINITE, "base64"))), "not finite"),
        (rows_of(row(0, ONES), row(1, [1e300, *ONES[1:]])), "not finite"),
        (rows_of(row(0, ONES), row(1, [0.0] * DIMENSIONS)), "a vector of zeros"),
        (rows_of(row(0, ONES), row(1, [1e-300] * DIMENSIONS)), "a vector of zeros"),
        (rows_of(row(0, ONES), row(1, None)), "did not answer with a list of embeddings"),
        (rows_of(row(0, ONES), {"embedding": ONES}), "did not answer with a list of embeddings"),
        (lambda request: peer.Reply(b'{"data": [{"index": 0, "embedding": [NaN]}]}'), "list of embeddings"),
        (lambda request: peer.Reply(b'{"data": ['), "list of embeddings"),
        (lambda request: peer.Reply(b"<html>\xff</html>"), "list of embeddings"),
        (lambda request: peer.Reply(b'{"data": [{"index": 0, "embedding": "\xff"}]}'), "list of embeddings"),
        (lambda request: peer.Reply(b""), "list of embeddings"),
        (lambda request: peer.Reply(b" " * 1_100_000), "sent more than the 1049600 bytes"),
    ],
)
async def test_nonsense_is_refused(endpoint, make, answer, detail):
    """An answer that is not one good vector for each text never becomes rows."""
    endpoint.answer = answer
    assert detail in str(await refusal(make(), [TEXT, "other"]))


async def test_one_failed_request_fails_the_call(endpoint, make):
    """The first failure of many requests is the call's, alone, and the others are given up."""
    first = asyncio.Event()

    def failing(request):
        if first.is_set():
            return peer.embeddings(request)
        first.set()
        return peer.Reply(b"", 503, {"Retry-After": "4"})

    endpoint.answer = failing
    error = await refusal(make(batch_size=1), [f"text {i}" for i in range(40)])
    assert error.retry_after_s == 4
    assert len(endpoint.requests) < 40


async def test_a_cancelled_call_leaves_the_client_usable(endpoint, make):
    """Cancellation stays cancellation, also in the middle of several requests."""
    embedder = make(batch_size=1)
    endpoint.release.clear()
    call = asyncio.create_task(embedder.embed(["a", "b", "c"]))
    await endpoint.wait_for_waiting(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    endpoint.release.set()
    np.testing.assert_allclose(await embedder.embed(["a"]), expected(["a"]), atol=1e-6)


async def test_check_proves_the_endpoint(endpoint, make):
    """Good: silent. Other dimensions than configured: refused before anything is stored."""
    await make().check()
    with pytest.raises(EmbedderUnavailable, match="sent a vector of 8 numbers, not 4"):
        await make(dimensions=4).check()


async def test_half_a_surrogate_pair_is_the_callers_fault(endpoint, make):
    """It cannot be sent; nothing goes out."""
    with pytest.raises(InvalidRequest, match="text 1 holds a lone surrogate"):
        await make().embed(["a", "\ud800"])
    assert endpoint.requests == []


async def test_a_closed_embedder_refuses(endpoint, make):
    """Closed before or after its first call, once or twice."""
    for calls in (0, 1):
        embedder = make()
        for _ in range(calls):
            await embedder.embed(["a"])
        await embedder.close()
        await embedder.close()
        with pytest.raises(EmbedderUnavailable, match="closed"):
            await embedder.embed(["a"])


@pytest.mark.parametrize("base_url", ["", "localhost:11434/v1", "ftp://host/v1", "http://", "http://user:pw@[::1/v1"])
def test_an_address_that_cannot_work_is_refused_at_once(base_url):
    """With the name of the setting, and without what may be a password."""
    with pytest.raises(ConfigError, match=r"embedding\.base_url") as caught:
        OpenAIEmbedder(base_url=base_url, model="m", dimensions=3)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("api_key", ["sk-secret\n", "sk secret", "schlüssel", "\x00"])
def test_a_key_that_no_header_takes_is_refused_at_once(api_key):
    """Without repeating the key."""
    with pytest.raises(ConfigError, match=r"embedding\.api_key") as caught:
        OpenAIEmbedder(base_url="http://127.0.0.1/v1", model="m", dimensions=3, api_key=api_key)
    assert api_key not in str(caught.value)


def test_secrets_of_the_address_stay_out_of_messages():
    """User, password and query are sent, never told."""
    embedder = OpenAIEmbedder(base_url="https://user:pw@host:8443/a/v1/?code=s3", model="m", dimensions=3)
    assert embedder._place == "https://host:8443/a/v1/embeddings"
    assert str(embedder._url.copy_with(userinfo=b"")) == "https://host:8443/a/v1/embeddings?code=s3"
    assert embedder._url.userinfo == b"user:pw"
