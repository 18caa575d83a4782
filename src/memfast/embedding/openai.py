"""Any endpoint that speaks OpenAI's `POST /embeddings`."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Sequence
from typing import Literal

import httpx
import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from memfast.embedding.batch import chunks, distinct, require_unicode, spread, unit_rows
from memfast.errors import ConfigError, EmbedderUnavailable

__all__ = ["OpenAIEmbedder"]

_REQUEST_COST = 200_000
"""Predicted bytes of one request's texts. OpenAI takes 300,000 tokens; a token is rarely shorter than a
byte."""
_INLINE_BYTES = 65_536
"""Larger answers are decoded in a thread: 64 KiB of JSON take about 0.3 ms, a full batch of float lists 20
ms."""
_BYTES_PER_NUMBER = 64
"""The most that an answer may take for one number: a float64 in decimal on an indented line of its own."""
_ENVELOPE_BYTES = 1_048_576
_REFUSAL_BYTES = 65_536
_MAX_RETRY_AFTER_S = 3600
_SETTINGS_RETRY_AFTER_S = 30
"""After a refusal that only an operator can change."""


_OF_THE_REQUEST = frozenset(
    {httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.UNPROCESSABLE_ENTITY}
)
"""Statuses that speak of one request, not of the endpoint."""


class _Request(Struct, frozen=True):
    model: str
    input: list[str]
    encoding_format: str | UnsetType = UNSET
    dimensions: int | UnsetType = UNSET


class _Row(Struct, frozen=True):
    index: int
    embedding: str | list[float]


class _Answer(Struct, frozen=True):
    data: list[_Row]


_decoder = msgspec.json.Decoder(_Answer)


class OpenAIEmbedder:
    """A client of one embeddings endpoint.

    Equal texts of a call are sent once, in requests of at most `batch_size` texts, `parallel_requests` of a
    call at a time, over connections that are kept and shared by all calls. Nothing is retried and nothing
    remembered here. The key and the texts appear in no message.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        dimensions: int,
        api_key: str = "",
        send_dimensions: bool = False,
        encoding_format: Literal["base64", "float", ""] = "base64",
        batch_size: int = 100,
        parallel_requests: int = 4,
        timeout_s: float = 30.0,
        pool_connections: int = 100,
        pool_keepalive: int = 20,
        pool_keepalive_s: float = 30.0,
        pool_timeout_s: float = 5.0,
        traceparent: Callable[[], bytes | None] | None = None,
    ) -> None:
        """Prepare; nothing is opened.

        Args:
            base_url: address without `/embeddings`, e.g. `https://api.openai.com/v1`; a query string is kept.
            model: the name that the endpoint knows; stamped as `openai/<model>`.
            dimensions: length that every vector must have.
            api_key: sent as a bearer token; empty = no Authorization header.
            send_dimensions: ask for `dimensions`; only some models can shorten their vectors.
            encoding_format: what to ask for; base64 is a fifth of the bytes. Both are understood in the
                answer, whatever was asked. Empty = do not send the field.
            batch_size: texts of one request.
            parallel_requests: requests of one call under way at once.
            timeout_s: seconds that one request may take, from the wait for a connection to the last byte.
            pool_connections: connections open at once.
            pool_keepalive: idle connections kept.
            pool_keepalive_s: seconds that an idle connection is kept.
            pool_timeout_s: seconds to wait for a free connection.
            traceparent: gives the header of that name for a request, None for none.

        Raises:
            ConfigError: the address or the key cannot be used.
        """
        self.model = f"openai/{model}"
        self.dimensions = dimensions
        self._url = _embeddings_url(base_url)
        self._place = _place(self._url)
        self._headers = _headers(api_key)
        self._wire_model = model
        self._dimensions_field = dimensions if send_dimensions else UNSET
        self._encoding_field = encoding_format or UNSET
        self._batch_size = batch_size
        self._parallel_requests = parallel_requests
        self._timeout_s = timeout_s
        self._pool_timeout_s = pool_timeout_s
        self._traceparent = traceparent
        self._limits = httpx.Limits(
            max_connections=pool_connections,
            max_keepalive_connections=pool_keepalive,
            keepalive_expiry=pool_keepalive_s,
        )
        self._http: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Returns:
            float32 (len(texts), dimensions), C-contiguous, unit rows.

        Raises:
            EmbedderUnavailable: the endpoint cannot be reached, refuses, or answers nonsense.
            InvalidRequest: a text holds a lone surrogate.
        """
        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        unique, positions = distinct(texts)
        parts = [
            (start, len(part), self._encode(part))
            for start, part in chunks(unique, max_texts=self._batch_size, max_cost=_REQUEST_COST)
        ]
        rows = np.empty((len(unique), self.dimensions), dtype=np.float32)
        await self._fill(rows, parts)
        return spread(rows, positions)

    async def check(self) -> None:
        """Embed one word: proves address, key, model and dimensions.

        Raises:
            EmbedderUnavailable: with what to do about it.
        """
        await self.embed(["memfast"])

    async def close(self) -> None:
        """Close the connections. Safe to call twice."""
        self._closed = True
        client, self._http = self._http, None
        if client is not None:
            await client.aclose()

    async def _fill(self, rows: NDArray[np.float32], parts: list[tuple[int, int, bytes]]) -> None:
        pending = iter(parts)

        async def work() -> None:
            for start, count, request in pending:
                rows[start : start + count] = await self._request(request, count)

        if len(parts) == 1:
            await work()
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._parallel_requests, len(parts))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            failure = failures.exceptions[0]
        else:
            return
        raise failure  # outside the handler: it keeps its own cause

    def _encode(self, texts: list[str]) -> bytes:
        request = _Request(self._wire_model, texts, self._encoding_field, self._dimensions_field)
        try:
            return msgspec.json.encode(request)
        except UnicodeEncodeError:
            require_unicode(texts)
            raise

    async def _request(self, request: bytes, count: int) -> NDArray[np.float32]:
        """Send one request; returns float32 (count, dimensions), unit rows."""
        parent = None if self._traceparent is None else self._traceparent()
        headers = None if parent is None else {b"traceparent": parent}
        try:
            async with asyncio.timeout(self._timeout_s):
                client = await self._client()
                async with client.stream("POST", self._url, content=request, headers=headers) as response:
                    if response.status_code != httpx.codes.OK:
                        raise self._refusal(response, await _read(response, _REFUSAL_BYTES))
                    limit = _ENVELOPE_BYTES + count * self.dimensions * _BYTES_PER_NUMBER
                    body = await _read(response, limit)
        except httpx.PoolTimeout:
            raise self._failure(
                f"had no free connection for {self._pool_timeout_s:g} s: all {self._limits.max_connections} are in use"
            ) from None
        except (TimeoutError, httpx.TimeoutException):
            raise self._failure(f"did not answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError as error:
            raise self._failure(f"cannot be reached ({error}): check embedding.base_url") from error
        except httpx.HTTPError as error:
            raise self._failure(f"broke the exchange off ({type(error).__name__})") from error
        if len(body) > limit:
            raise self._failure(f"sent more than the {limit} bytes that {count} vectors can take")
        if len(body) > _INLINE_BYTES:
            return await asyncio.to_thread(self._decode, body, count)
        return self._decode(body, count)

    async def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            async with self._lock:
                if self._closed:
                    raise EmbedderUnavailable("the embedder is closed: the service is stopping")
                if self._http is None:
                    self._http = await asyncio.to_thread(self._connect)
        return self._http

    def _connect(self) -> httpx.AsyncClient:
        """Make the client; in a thread, because reading the trusted certificates takes 20 ms and more."""
        return httpx.AsyncClient(
            headers=self._headers,
            limits=self._limits,
            timeout=httpx.Timeout(self._timeout_s, pool=self._pool_timeout_s),
        )

    def _decode(self, body: bytes, count: int) -> NDArray[np.float32]:
        """Read an answer; returns float32 (count, dimensions), unit rows, in the order of the request."""
        try:
            data = _decoder.decode(body).data
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._failure(f"did not answer with a list of embeddings: {error}") from error
        if len(data) != count:
            raise self._failure(f"sent {len(data)} vectors for {count} texts")
        rows = np.empty((count, self.dimensions), dtype=np.float32)
        missing = set(range(count))
        for row in data:
            if row.index not in missing:
                raise self._failure(f"sent index {row.index} twice or out of 0..{count - 1}")
            missing.remove(row.index)
            rows[row.index] = self._vector(row)
        if not np.isfinite(rows).all():
            raise self._failure("sent a vector with a number that is not finite")
        if not rows.any(axis=1).all():
            raise self._failure("sent a vector of zeros, which has no direction")
        return unit_rows(rows)

    def _vector(self, row: _Row) -> NDArray[np.float32]:
        if isinstance(row.embedding, str):
            try:
                vector = np.frombuffer(base64.b64decode(row.embedding, validate=True), dtype="<f4")
            except ValueError as error:
                raise self._failure(f"sent an embedding that is not base64 of float32: {error}") from error
        else:
            with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
                vector = np.array(row.embedding, dtype=np.float32)
        if len(vector) != self.dimensions:
            raise self._failure(
                f"sent a vector of {len(vector)} numbers, not {self.dimensions}: set embedding.dimensions to "
                f"what {self._wire_model} makes, or embedding.send_dimensions if it can shorten its vectors",
                retry_after_s=_SETTINGS_RETRY_AFTER_S,
            )
        return vector.astype(np.float32, copy=False)

    def _refusal(self, response: httpx.Response, body: bytes) -> EmbedderUnavailable:
        """Say what a status means, in our own words: the endpoint's may quote the texts or the key."""
        status = response.status_code
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            what = "refused the key: set embedding.api_key to one that may use this model"
        elif status == httpx.codes.NOT_FOUND:
            what = f"knows no {self._wire_model!r} or no such path: check embedding.model and embedding.base_url"
        elif status in {httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY}:
            what = self._bad_request(body)
        elif status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            what = "found the request too large: lower embedding.batch_size"
        elif status == httpx.codes.TOO_MANY_REQUESTS:
            what = "limits the rate or the quota of this key"
        elif status >= httpx.codes.INTERNAL_SERVER_ERROR:
            what = "failed"
        else:
            what = "did not embed: check embedding.base_url"
        alone = status in _OF_THE_REQUEST
        transient = status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR
        default_s = 1 if transient else _SETTINGS_RETRY_AFTER_S
        return self._failure(f"{what} (HTTP {status})", retry_after_s=_retry_after_s(response, default_s), alone=alone)

    def _bad_request(self, body: bytes) -> str:
        if self._dimensions_field is not UNSET and b"dimensions" in body:
            return "rejects the field `dimensions`: set embedding.send_dimensions = false"
        if self._encoding_field is not UNSET and b"encoding_format" in body:
            return f"rejects the field `encoding_format` = {self._encoding_field!r}: ask for another or none"
        return (
            f"refused the request: a text may be too long for {self._wire_model}, "
            "or embedding.batch_size more than it takes"
        )

    def _failure(self, what: str, *, retry_after_s: int = 1, alone: bool = False) -> EmbedderUnavailable:
        """The error; `alone` where the next request may do better."""
        detail = f"the embedding endpoint {self._place} {what}"
        return EmbedderUnavailable(detail, retry_after_s=retry_after_s, failure=None if alone else what)


def _embeddings_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ConfigError("embedding.base_url is not a URL") from None  # the cause may quote a password
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError("embedding.base_url must start with http:// or https:// and name a host")
    return url.copy_with(path=url.path.rstrip("/") + "/embeddings")


def _place(url: httpx.URL) -> str:
    """The address for messages, without user, password or query: they may be secrets."""
    return str(url.copy_with(userinfo=b"", query=None))


def _headers(api_key: str) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept": "application/json"}
    if api_key:
        if not re.fullmatch(r"[!-~]+", api_key):
            raise ConfigError("embedding.api_key must be printable ASCII without blanks: look for a line end in it")
        headers["authorization"] = f"Bearer {api_key}"
    return headers


async def _read(response: httpx.Response, limit: int) -> bytes:
    """Read a body; stops after the piece that passes `limit` bytes."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > limit:
            break
    return bytes(body)


def _retry_after_s(response: httpx.Response, default_s: int) -> int:
    """Seconds of a Retry-After header, at most an hour. The form with a date counts as absent."""
    value = response.headers.get("retry-after", "")
    if not re.fullmatch(r"\d{1,9}(\.\d*)?", value):
        return default_s
    return min(max(-int(-float(value) // 1), 1), _MAX_RETRY_AFTER_S)
