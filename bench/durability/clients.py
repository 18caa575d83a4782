"""Clients that write over HTTP whatever happens to the service, and keep account of what they were told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec

from bench.durability.journal import Item, Journal, State, body_of
from bench.harness.load import Connection, encode

__all__ = ["PAGE", "Client", "NotSent", "read_back", "writing"]

PAGE = 1000
"""The largest page and the most results of a search that the service gives."""

ANSWER_S = 45.0
"""How long a client waits for an answer; the service itself gives up earlier."""

_AGAIN_S = 0.02
_UNKNOWN = b"outcome-unknown"
_CREATE, _PATCH, _DELETE, _BATCH = 0.35, 0.7, 0.8, 1.0
_BATCH_ITEMS = 6


class NotSent(ConnectionError):
    """Nobody listens."""


class _Broken(Exception):
    """The connection ended, or no answer came in time."""


class Client:
    """One connection at a time to whoever listens at an address, made anew when it breaks.

    `tier` is what gave the latest answer to a read. `key` is an API key, which every request then carries.
    """

    def __init__(self, address: tuple[str, int], key: str = "") -> None:
        self.tier = ""
        self._address = address
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._connection: Connection | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, int, bytes]:
        """One request: status, the version in the header (0 without), body.

        Raises:
            NotSent: nobody listens.
            ConnectionError: nobody answered.
        """
        if self._connection is None:
            try:
                _, self._connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
            except OSError as error:
                raise NotSent(str(error)) from error
        try:
            async with asyncio.timeout(ANSWER_S):
                status, answer = await self._connection.send(encode(method, path, body, headers=self._headers))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):  # a timeout is one too
                raise ConnectionError(str(error)) from error
            raise
        self.tier = self._field(b"memfast-tier")
        return status, int(self._field(b"memfast-version") or 0), answer

    def _field(self, name: bytes) -> str:
        assert self._connection is not None
        _, _, rest = self._connection.head.partition(b"\r\n" + name + b": ")
        return rest.partition(b"\r\n")[0].decode()

    def close(self) -> None:
        """Break the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Writer:
    """One client: creates, changes and deletes memories of its own, among users that it shares with others."""

    def __init__(self, client: Client, journal: Journal, users: list[str], chance: random.Random) -> None:
        self._client = client
        self._journal = journal
        self._users = users
        self._chance = chance
        self._number = 0
        self._live: list[Item] = []

    async def run(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            try:
                await self._write()
            except _Broken:
                await asyncio.sleep(_AGAIN_S)

    async def _write(self) -> None:
        self._number += 1
        draw = self._chance.random()
        if draw >= _DELETE:
            await self._batch()
        elif draw < _CREATE or not self._live:
            item = self._new()
            body = {"user_id": item.user_id, "id": item.id, **self._body(item)}
            await self._send([item], State(self._number), "POST", "/v1/memories", body)
        else:
            item = self._live.pop(self._chance.randrange(len(self._live)))
            path = f"/v1/memories/{item.id}?user_id={item.user_id}"
            if draw < _PATCH:
                await self._send([item], State(self._number), "PATCH", path, self._body(item))
            else:
                await self._send([item], State(None), "DELETE", path)

    async def _batch(self) -> None:
        items = [self._new() for _ in range(self._chance.randint(2, _BATCH_ITEMS))]
        for item in items:
            item.user_id = items[0].user_id
        memories = [{"id": item.id, **self._body(item)} for item in items]
        body = {"user_id": items[0].user_id, "memories": memories}
        await self._send(items, State(self._number), "POST", "/v1/memories/batch", body)

    def _body(self, item: Item) -> dict[str, Any]:
        return body_of(item.id, self._number, self._journal.noise_bytes)

    def _new(self) -> Item:
        return Item(self._chance.choice(self._users), str(UUID(int=self._chance.getrandbits(128), version=4)))

    async def _send(self, items: list[Item], state: State, method: str, path: str, body: Any = None) -> None:
        journal = self._journal
        journal.meant(items, [state] * len(items))
        try:
            status, version, answer = await self._client.ask(method, path, body)
        except NotSent as error:
            journal.unsent(items)
            self._live += [item for item in items if item.sure.number is not None]
            raise _Broken from error
        except BaseException as error:
            journal.unanswered(items)
            if isinstance(error, ConnectionError):
                raise _Broken from error
            raise
        if _UNKNOWN in answer and status == 504:
            journal.unanswered(items)
        elif status >= 300:
            journal.refused(items, status, repr(answer[:300]))
            self._live += [item for item in items if item.sure.number is not None]
            await asyncio.sleep(_AGAIN_S)
        else:
            journal.acknowledged(items, _versions(items, state, answer), version)
            self._live += [item for item in items if item.sure.number is not None and item.maybe is None]


def _versions(items: list[Item], state: State, answer: bytes) -> list[int | None]:
    """The version of each item as it was acknowledged."""
    if state.number is None:
        return [None]
    told = msgspec.json.decode(answer)
    results = told.get("results", [told])
    assert [each["id"] for each in results] == [item.id for item in items], answer[:500]
    return [each["version"] for each in results]


@asynccontextmanager
async def writing(
    address: tuple[str, int], journal: Journal, users: list[str], *, writers: int, seed: int
) -> AsyncIterator[None]:
    """So many clients write as long as it is entered; then each ends the write that it is at."""
    enough = asyncio.Event()
    clients = [Client(address) for _ in range(writers)]
    tasks = [
        asyncio.create_task(_Writer(client, journal, users, random.Random(seed * 1000 + number)).run(enough))
        for number, client in enumerate(clients)
    ]
    try:
        yield
        enough.set()
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            client.close()


async def read_back(address: tuple[str, int], journal: Journal) -> None:
    """Read all memories of the journal's users, by list and by search, and judge them."""
    client = Client(address)
    try:
        for user_id in journal.users():
            found, version = await _listed(client, user_id)
            searched = await _searched(client, user_id) if 0 < len(found) <= PAGE else None
            journal.judge(user_id, version, found, searched)
    finally:
        client.close()


async def _listed(client: Client, user_id: str) -> tuple[list[dict[str, Any]], int]:
    found: list[dict[str, Any]] = []
    path = f"/v1/memories?user_id={user_id}&limit={PAGE}"
    cursor = ""
    while True:
        version, answer = await _read(client, "GET", path + cursor)
        page = msgspec.json.decode(answer)
        found += page["memories"]
        if not page["has_more"]:
            return found, version
        cursor = f"&cursor={page['next_cursor']}"


async def _searched(client: Client, user_id: str) -> set[str]:
    body = {"user_id": user_id, "embedding": body_of("", 1)["embedding"], "limit": PAGE}
    _, answer = await _read(client, "POST", "/v1/search", body)
    return {hit["id"] for hit in msgspec.json.decode(answer)["results"]}


async def _read(client: Client, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    """Read until it is answered with 200: a worker may just find out that its connections are gone."""
    async with asyncio.timeout(ANSWER_S):
        while True:
            try:
                status, version, answer = await client.ask(method, path, body)
            except ConnectionError:
                status = 503
            if status == 200:
                return version, answer
            if status not in {503, 504}:
                raise RuntimeError(f"{path} was answered with {status}: {answer[:500]!r}")
            await asyncio.sleep(_AGAIN_S)
