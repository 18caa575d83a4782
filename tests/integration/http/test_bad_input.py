"""Whatever a client sends: a problem that says where it is wrong, never a crash, and nothing half written."""

import base64
import json
import struct
from urllib.parse import unquote
from uuid import uuid4

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memfast.http.app import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
NAN, INF = float("nan"), float("inf")
ZEROS, SHORT = [0.0] * 256, [1.0] * 255
DEEP = {"a": [[[[[[[[1]]]]]]]]}  # nine levels

BAD_FIELDS = [
    ("text", None, "$.text"),
    ("text", 5, "$.text"),
    ("text", ["x"], "$.text"),
    ("text", "", "$.text"),
    ("text", " \t\n\u3000", "$.text"),
    ("text", "x" * 65537, "$.text"),
    ("text", "é" * 32769, "$.text"),
    ("text", "x" * 1_000_000, "$.text"),
    ("text", "nul\0", "$.text"),
    ("user_id", None, "$.user_id"),
    ("user_id", "", "$.user_id"),
    ("user_id", 7, "$.user_id"),
    ("user_id", "x" * 257, "$.user_id"),
    ("user_id", "é" * 129, "$.user_id"),
    ("user_id", "\0", "$.user_id"),
    ("id", "7", "$.id"),
    ("id", "", "$.id"),
    ("id", 7, "$.id"),
    ("id", "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e0", "$.id"),
    ("kind", "", "$.kind"),
    ("kind", None, "$.kind"),
    ("kind", "x" * 513, "$.kind"),
    ("kind", "\0", "$.kind"),
    ("tags", "food", "$.tags"),
    ("tags", {"a": 1}, "$.tags"),
    ("tags", ["a"] * 65, "$.tags"),
    ("tags", ["ok", ""], "$.tags[1]"),
    ("tags", ["ok", 5], "$.tags[1]"),
    ("tags", [None], "$.tags[0]"),
    ("tags", ["x" * 129], "$.tags[0]"),
    ("tags", ["\0"], "$.tags[0]"),
    ("entities", ["e"] * 65, "$.entities"),
    ("entities", ["x" * 257], "$.entities[0]"),
    ("importance", -0.1, "$.importance"),
    ("importance", 1.0000001, "$.importance"),
    ("importance", "0.5", "$.importance"),
    ("importance", True, "$.importance"),
    ("importance", None, "$.importance"),
    ("importance", 10**400, "$.importance"),
    ("metadata", [], "$.metadata"),
    ("metadata", "x", "$.metadata"),
    ("metadata", DEEP, "$.metadata.a[0][0][0][0][0][0][0]"),
    ("metadata", {"a": 2**53}, "$.metadata.a"),
    ("metadata", {"a": {"b": [-(2**53)]}}, "$.metadata.a.b[0]"),
    ("metadata", {"a": 10**30}, "$.metadata.a"),
    ("metadata", {"a": "\0"}, "$.metadata.a"),
    ("metadata", {"a\0": 1}, "$.metadata"),
    ("metadata", {"a": "x" * 16384}, "$.metadata"),
    ("agent_id", "", "$.agent_id"),
    ("agent_id", 5, "$.agent_id"),
    ("run_id", "x" * 513, "$.run_id"),
    ("source", "\0", "$.source"),
    ("created_at", "yesterday", "$.created_at"),
    ("created_at", "2024-01-01", "$.created_at"),
    ("created_at", "2024-01-01T00:00:00", "$.created_at"),
    ("created_at", "2024-13-01T00:00:00Z", "$.created_at"),
    ("created_at", 1700000000, "$.created_at"),
    ("created_at", "0001-01-01T00:00:00+00:01", "$.created_at"),
    ("created_at", "9999-12-31T23:59:59-00:01", "$.created_at"),
    ("created_at", "0001-01-01T00:00:00Z", "$.created_at"),
    ("created_at", "9999-12-31T23:59:59.999999Z", "$.created_at"),
    ("created_at", "10000-01-01T00:00:00Z", "$.created_at"),
    ("expires_at", "2001-01-01T00:00:00Z", "$.expires_at"),
    ("expires_at", "never", "$.expires_at"),
    ("on_conflict", "merge", "$.on_conflict"),
    ("on_conflict", None, "$.on_conflict"),
    ("embedding", [], "$.embedding"),
    ("embedding", SHORT, "$.embedding"),
    ("embedding", [*SHORT, 1.0, 1.0], "$.embedding"),
    ("embedding", ZEROS, "$.embedding"),
    ("embedding", [*SHORT, "1"], "$.embedding[255]"),
    ("embedding", [*SHORT, None], "$.embedding[255]"),
    ("embedding", [*SHORT, 10**400], "$.embedding[255]"),
    ("embedding", "AAA", "$.embedding"),
    ("embedding", "not base64!", "$.embedding"),
    ("embedding", "", "$.embedding"),
    ("embedding", base64.b64encode(np.ones(255, "<f4").tobytes()).decode(), "$.embedding"),
    ("embedding", base64.b64encode(np.zeros(256, "<f4").tobytes()).decode(), "$.embedding"),
    ("embedding", base64.b64encode(np.full(256, np.nan, "<f4").tobytes()).decode(), "$.embedding"),
    ("embedding", base64.b64encode(np.full(256, np.inf, "<f4").tobytes()).decode(), "$.embedding"),
    ("surprise", 1, "$"),
    ("version", 1, "$"),
    ("updated_at", "2024-01-01T00:00:00Z", "$"),
]
MSGPACK_FIELDS = [
    ("importance", NAN, "$.importance"),
    ("importance", INF, "$.importance"),
    ("metadata", {"a": NAN}, "$.metadata.a"),
    ("metadata", {"a": [-INF]}, "$.metadata.a[0]"),
    ("metadata", {"a": b"bytes"}, "$.metadata.a"),
    ("metadata", {"a": msgspec.msgpack.Ext(5, b"x")}, "$.metadata.a"),
    ("metadata", {"a": {1: 2}}, "$.metadata.a"),
    ("metadata", {"a": {None: 2}}, "$.metadata.a"),
    ("metadata", {"a": {(1, 2): 2}}, "$.metadata.a"),
    ("metadata", {1: 2}, "$.metadata"),
    ("metadata", {"a": 2**64 - 1}, "$.metadata.a"),
    ("embedding", [*SHORT, NAN], "$.embedding"),
    ("embedding", [*SHORT, INF], "$.embedding"),
    ("embedding", np.ones(255, "<f4").tobytes(), "$.embedding"),
    ("embedding", np.zeros(256, "<f4").tobytes(), "$.embedding"),
    ("embedding", np.full(256, np.nan, "<f4").tobytes(), "$.embedding"),
    ("embedding", b"", "$.embedding"),
    ("embedding", b"x" * 1023, "$.embedding"),
    ("embedding", "AAAA", "$.embedding"),
    ("created_at", msgspec.msgpack.Ext(-1, struct.pack(">Iq", 0, 2**62)), "$.created_at"),
    ("text", b"bytes", "$.text"),
]


def named(cases):
    """Short names for long values."""
    return [f"{field}-{str(value)[:24]}-{place}" for place, (field, value, _) in enumerate(cases)]


@pytest.mark.parametrize(("field", "value", "path"), BAD_FIELDS, ids=named(BAD_FIELDS))
async def test_a_bad_field_of_create_is_named(api, user, field, value, path, check_problem):
    """400 with the path, and no row is written."""
    before = await api.counts()
    body = json.dumps({"user_id": user, "text": "x"} | {field: value})
    response = await api.client.post("/v1/memories", content=body, headers=JSON)
    problem = check_problem(response, 400, "invalid-request", path)
    assert len(problem["detail"]) < 500
    assert await api.counts() == before


@pytest.mark.parametrize(("field", "value", "path"), MSGPACK_FIELDS, ids=named(MSGPACK_FIELDS))
async def test_what_only_msgpack_can_say_is_refused_too(api, user, field, value, path, check_problem):
    """NaN, bytes, extensions and names that are no strings."""
    before = await api.counts()
    body = msgspec.msgpack.encode({"user_id": user, "text": "x"} | {field: value})
    response = await api.client.post("/v1/memories", content=body, headers=MSGPACK)
    check_problem(response, 400, "invalid-request", path)
    assert await api.counts() == before


@pytest.mark.parametrize("field", ["text", "user_id"])
async def test_a_missing_field_is_named(api, user, field, check_problem):
    """What must be there is named."""
    body = {"user_id": user, "text": "x"}
    del body[field]
    check_problem(await api.client.post("/v1/memories", json=body), 400, "invalid-request", says=field)


SURROGATES = [b'"\\ud800"', b'"\\udc00x"', b'"\\ud800\\ud800"', b'"a\xed\xa0\x80b"', b'"\xff"', b'"\xc0\xaf"']


@pytest.mark.parametrize("text", SURROGATES)
@pytest.mark.parametrize("field", [b"text", b"user_id", b"kind", b"source", b"metadata", b"tags"])
async def test_what_is_no_unicode_is_refused(api, user, field, text, check_problem):
    """Lone surrogates, escaped or raw, and broken UTF-8, in every string."""
    value = {b"metadata": b'{"a":%b}' % text, b"tags": b"[%b]" % text}.get(field, text)
    fields = {b"user_id": b'"%b"' % user.encode(), b"text": b'"x"'} | {field: value}
    body = b"{%b}" % b",".join(b'"%b":%b' % pair for pair in fields.items())
    check_problem(await api.client.post("/v1/memories", content=body, headers=JSON), 400, "invalid-request")


BROKEN = [
    b"",
    b" ",
    b"{",
    b"}",
    b"[",
    b"null",
    b"true",
    b"7",
    b'"x"',
    b"[]",
    b"{}",
    b"{}{}",
    b'{"user_id":"u","text":"x"',
    b'{"user_id":"u","text":"x",}',
    b"{'user_id':'u','text':'x'}",
    b'{"user_id":"u","text":"x"} trailing',
    b'{"user_id":"u","text":"x"}\0',
    b'{"user_id":"u","text":"x","importance":NaN}',
    b'{"user_id":"u","text":"x","importance":Infinity}',
    b'{"user_id":"u","text":"x","importance":1e999}',
    b'{"user_id":"u","text":"x","importance":01}',
    b'{"user_id":"u","text":"x","metadata":{"a":1e999}}',
    b'{"user_id":"u","text":"x","metadata":{"a":' + b"9" * 5000 + b"}}",
    b'{"user_id":"u","text":"line\nbreak"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\0}\0",
    b"\0",
    b"[" * 10_000,
    b"[" * 10_000 + b"]" * 10_000,
    b'{"user_id":"u","text":"x","metadata":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}",
    b'{"user_id":"u","text":"x","metadata":{"a":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}}",
    b'{"user_id":"u","text":"x","tags":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"user_id":"u","memories":[' + b"[" * 10_000 + b"]" * 10_000 + b"x]}",
]
POSTS = [("POST", "/v1/memories"), ("POST", "/v1/memories/batch"), ("POST", "/v1/memories/get"), ("POST", "/v1/search")]
BATCHES = [("PATCH", "/v1/memories/batch"), ("DELETE", "/v1/memories/batch"), ("POST", "/v1/memories/delete")]
PATCH = ("PATCH", "/v1/memories/5b83d9c9-d3a4-4c1e-9a53-5f2b8c6d7e01?user_id=u")


@pytest.mark.parametrize("body", BROKEN, ids=[f"{body[:40]!r}-{len(body)}" for body in BROKEN])
@pytest.mark.parametrize(("method", "path"), [*POSTS, *BATCHES, PATCH], ids=lambda value: value[:22])
async def test_a_broken_body_is_a_400(api, method, path, body, check_problem):
    """On every route that takes one; deep nesting costs nothing but the answer."""
    before = await api.counts()
    response = await api.request(method, path, content=body, headers=JSON)
    check_problem(response, 400, "invalid-request")
    assert await api.counts() == before


PACKED = msgspec.msgpack.encode({"user_id": "u", "text": "x", "metadata": {"a": [1, 2, 3]}})
BROKEN_PACKED = [
    b"",
    b"\xc1",
    b"\xc0",
    b"\x80",
    b"\x90",
    *[PACKED[:length] for length in range(1, len(PACKED), 7)],
    PACKED + b"\x00",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xffx",
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 10_000,
    b"\x81\xa1a" * 10_000,
    b"\x83\xa7user_id\xa1u\xa4text\xa1x\xa8metadata\x81\xa1a" + b"\x91" * 10_000 + b"\x01",
    b"\x83\xa7user_id\xa1u\xa4text\xa1x\xa8metadata\x81\xa1a\x81\x81\xa1b\x01\x01",
    b"\x83\xa7user_id\xa1u\xa4text\xa1x\xa8metadata\x81\xa1a\xa2\xff\xfe",
    b"\x82\xa7user_id\xa3\xed\xa0\x80\xa4text\xa1x",
]


@pytest.mark.parametrize("body", BROKEN_PACKED, ids=[f"{place}" for place in range(len(BROKEN_PACKED))])
@pytest.mark.parametrize(("method", "path"), [*POSTS, PATCH], ids=lambda value: value[:22])
async def test_broken_msgpack_is_a_400(api, method, path, body, check_problem):
    """Truncated, with lengths that lie, nested for ever, or with keys that cannot be."""
    before = await api.counts()
    check_problem(await api.request(method, path, content=body, headers=MSGPACK), 400, "invalid-request")
    assert await api.counts() == before


async def test_the_last_of_duplicate_names_counts(api, user):
    """JSON leaves it open; it is one value, never a mix."""
    body = f'{{"user_id":"{user}","text":"first","text":"last","metadata":{{"a":1,"a":2}}}}'
    memory = (await api.client.post("/v1/memories", content=body, headers=JSON)).json()
    assert (memory["text"], memory["metadata"]) == ("last", {"a": 2})


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data", "application/jsonp", "msgpack", "*/*", "é"]
)
async def test_other_content_types_are_a_415(api, user, kind, check_problem):
    """Neither JSON nor msgpack, even where the bytes would be."""
    body = json.dumps({"user_id": user, "text": "x"}).encode()
    response = await api.client.post("/v1/memories", content=body, headers={"content-type": kind.encode()})
    check_problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "kind", [None, "", "application/json; charset=utf-8", "Application/JSON", " application/json ;x"]
)
async def test_json_needs_no_exact_content_type(api, user, kind):
    """None at all, parameters and capitals are JSON."""
    body = json.dumps({"user_id": user, "text": "x"}).encode()
    headers = {} if kind is None else {"content-type": kind}
    assert (await api.client.post("/v1/memories", content=body, headers=headers)).status_code == 201


async def chunks(size, step):
    """A body of unknown length."""
    for _ in range(size // step):
        yield b" " * step


async def test_a_body_over_the_bound_is_a_413(api, check_problem):
    """By its Content-Length, before any of it is read; by its bytes, when it does not say."""
    bound = api.site.config.server.body_max_bytes
    reply = await api.client.post(
        "/v1/memories", content=chunks(65536 * 4, 65536), headers={"content-length": str(bound + 1)}
    )
    check_problem(reply, 413, "payload-too-large", says=str(bound))
    reply = await api.client.post("/v1/memories", content=chunks(bound + 2**20, 2**20))
    check_problem(reply, 413, "payload-too-large", says=str(bound))
    just_fits = b'{"user_id":"u","text":"x"' + b" " * (bound - 26) + b"}"
    assert (await api.client.post("/v1/memories", content=just_fits, headers=JSON)).status_code == 201


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "1e3", "", "9" * 5000])
async def test_a_content_length_that_is_no_number_is_refused(api, length):
    """400 or 413, never a crash."""
    response = await api.client.post("/v1/memories", content=b"{}", headers={"content-length": length})
    assert response.status_code in {400, 413}, response.text


QUERIES = [
    ("limit=0", "limit"),
    ("limit=-1", "limit"),
    ("limit=1001", "limit"),
    ("limit=1000000000", "limit"),
    ("limit=99999999999999999999999999", "limit"),
    ("limit=x", "limit"),
    ("limit=true", "limit"),
    ("limit=1.5", "limit"),
    ("limit=", "limit"),
    ("limit=%205", "limit"),
    ("limit=NaN", "limit"),
    ("order=newest", "order"),
    ("order=", "order"),
    ("surprise=1", "surprise"),
    ("user=u", "user"),
    ("limit=1&limit=2", "limit"),
    ("user_id=u", "user_id"),
    ("user_id[]=u", "user_id[]"),
    ("kind=%00", "kind"),
    ("cursor=x", "cursor"),
    ("kind=%ff", None),
    ("kind=%zz", None),
    ("kind=%", None),
    ("kind=%2", None),
    ("kind", None),
    ("&&", None),
]


@pytest.mark.parametrize(("query", "name"), QUERIES, ids=[query for query, _ in QUERIES])
async def test_a_bad_parameter_is_named(api, user, query, name, check_problem):
    """Unknown, repeated, out of range, of another type, or not percent-encoded."""
    url = httpx.URL("http://memfast/v1/memories").copy_with(raw_path=f"/v1/memories?user_id={user}&{query}".encode())
    check_problem(await api.client.get(url), 400, "invalid-request", says=name)


@pytest.mark.parametrize("query", ["", "user_id=", "user_id=" + "x" * 257, "user_id=%00", "user_id=a&user_id=a"])
async def test_every_route_of_one_memory_needs_a_good_user_id(api, query, check_problem):
    """List, get, change and delete."""
    for method, path in [("GET", ""), ("GET", f"/{uuid4()}"), ("PATCH", f"/{uuid4()}"), ("DELETE", f"/{uuid4()}")]:
        arguments = {"content": b'{"kind":"x"}', "headers": JSON} if method == "PATCH" else {}
        response = await api.request(method, f"/v1/memories{path}?{query}", **arguments)
        check_problem(response, 400, "invalid-request", says="user_id")


@pytest.mark.parametrize(
    "memory_id", ["7", "null", "x" * 36, "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e0g", "%00", "🥜", "{}"]
)
async def test_an_id_that_is_no_uuid_is_refused(api, user, memory_id, check_problem):
    """In the path and in the list of ids."""
    check_problem(await api.get(user, memory_id), 400, "invalid-request", says="id")
    check_problem(await api.patch(user, memory_id, {"kind": "x"}), 400, "invalid-request", says="id")
    check_problem(await api.delete(user, memory_id), 400, "invalid-request", says="id")
    body = {"user_id": user, "ids": [str(uuid4()), memory_id]}
    check_problem(await api.client.post("/v1/memories/get", json=body), 400, "invalid-request", "$.ids[1]")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"ids": []}, "$.ids"),
        ({"ids": None}, "$.ids"),
        ({"ids": "x"}, "$.ids"),
        ({"ids": ["5b83d9c9-d3a4-4c1e-9a53-5f2b8c6d7e01"] * 1001}, "$.ids"),
        ({"ids": [7]}, "$.ids[0]"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_bad_lists_of_ids(api, user, body, path, check_problem):
    """Empty, of another type, or too long."""
    response = await api.client.post("/v1/memories/get", json={"user_id": user} | body)
    check_problem(response, 400, "invalid-request", path)


SEARCHES = [
    ({}, "$"),
    ({"query": None}, "$"),
    ({"query": ""}, "$.query"),
    ({"query": "  "}, "$.query"),
    ({"query": "\0"}, "$.query"),
    ({"query": "x" * 65537}, "$.query"),
    ({"query": 7}, "$.query"),
    ({"query": "x", "limit": 0}, "$.limit"),
    ({"query": "x", "limit": -1}, "$.limit"),
    ({"query": "x", "limit": 1001}, "$.limit"),
    ({"query": "x", "limit": 10**9}, "$.limit"),
    ({"query": "x", "limit": 10**30}, "$.limit"),
    ({"query": "x", "limit": "10"}, "$.limit"),
    ({"query": "x", "limit": True}, "$.limit"),
    ({"query": "x", "limit": 1.5}, "$.limit"),
    ({"query": "x", "min_score": -0.1}, "$.min_score"),
    ({"query": "x", "min_score": 1.1}, "$.min_score"),
    ({"query": "x", "filter": {"kind": {"like": "fact"}}}, "$.filter.kind.like"),
    ({"query": "x", "min_version": 1}, "min_version"),
    ({"query": "x", "consistency": "eventual"}, "consistency"),
    ({"embedding": ZEROS}, "$.embedding"),
    ({"embedding": SHORT}, "$.embedding"),
    ({"embedding": [True] * 256}, "$.embedding[0]"),
    ({"embedding": "AAAA"}, "$.embedding"),
]


@pytest.mark.parametrize(("body", "says"), SEARCHES, ids=[str(body)[:40] for body, _ in SEARCHES])
async def test_bad_searches(api, user, body, says, check_problem):
    """Bounds, types, and what is not served yet: refused, never ignored."""
    response = await api.client.post("/v1/search", json={"user_id": user} | body)
    check_problem(response, 400, "invalid-request", says=says)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ["user_id", "text", "id", "ids", "memories", "tags", "metadata", "query", "embedding", "limit", "importance"]
NAMES += ["created_at", "expires_at", "on_conflict", "kind", "min_score", "mode", "agent_id", "filter", "", "x"]
BODIES = (
    st.dictionaries(st.sampled_from(NAMES), JSON_VALUES, max_size=6)
    | st.fixed_dictionaries(
        {"user_id": st.just("fuzz"), "text": st.text(max_size=9)}, optional=dict.fromkeys(NAMES[2:], JSON_VALUES)
    )
    | st.fixed_dictionaries({"user_id": st.just("fuzz"), "memories": st.lists(JSON_VALUES, max_size=4)})
    | JSON_VALUES
)
FUZZED = [route for route in ROUTES if route.method in {"POST", "PATCH"}]


@pytest.mark.parametrize("route", FUZZED, ids=lambda route: f"{route.method} {route.path}")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, packed=st.booleans())
async def test_arbitrary_values_are_never_a_500(api, route, body, packed):
    """Any JSON value, as JSON and as msgpack."""
    try:
        content = msgspec.msgpack.encode(body) if packed else json.dumps(body).encode("utf-8", "surrogatepass")
    except (OverflowError, UnicodeEncodeError):  # an integer that msgpack cannot hold
        return
    path = route.path.replace("{memory_id}", str(uuid4())) + ("?user_id=fuzz" if route.method == "PATCH" else "")
    response = await api.request(route.method, path, content=content, headers=MSGPACK if packed else JSON)
    assert response.status_code < 500, response.text


@pytest.mark.parametrize("route", FUZZED, ids=lambda route: f"{route.method} {route.path}")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=200), kind=st.sampled_from(["application/json", "application/msgpack", "", "x/y"]))
async def test_arbitrary_bytes_are_never_a_500(api, route, content, kind):
    """Any bytes under any content type."""
    path = route.path.replace("{memory_id}", str(uuid4())) + ("?user_id=fuzz" if route.method == "PATCH" else "")
    response = await api.request(route.method, path, content=content, headers={"content-type": kind})
    assert response.status_code < 500, response.text


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.binary(max_size=40).map(
        lambda raw: "".join(f"%{byte:02X}" if byte < 128 else chr(byte - 96) for byte in raw)
    ),
    query=st.binary(max_size=40),
)
async def test_arbitrary_addresses_are_never_a_500(api, path, query):
    """Any path below /v1 and any query string, as the server would hand them over."""
    for prefix in ("/v1/users/", "/v1/memories/", "/v1/"):
        raw_path = prefix + path
        sent = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "headers": [(b"host", b"memfast")],
            "scheme": "http",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode(),
            "query_string": query,
            "server": ("memfast", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message, sent=sent):
            sent.append(message)

        await api.edge(scope, receive, send)
        assert sent[0]["status"] < 500
