"""An open loop: requests are sent when a trace says, whether the service keeps up or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.durability.clients import Client
from bench.harness.turns import paced
from bench.load.mix import Person
from bench.load.traces import Arrival

__all__ = ["DROPPED", "UNANSWERED", "Driver", "Outcome", "Result"]

DROPPED, UNANSWERED = -1, 0
"""Statuses of what was not sent, as too much was under way, and of what the connection ended under."""


@dataclass(frozen=True)
class Outcome:
    """What became of one arrival.

    What was sent; when it was due, in seconds after the begin; how many milliseconds after that it was sent and had its
    answer; the status.
    """

    operation: str
    due_s: float
    lag_ms: float
    latency_ms: float
    status: int

    @property
    def good(self) -> bool:
        """Whether it was answered as it should be."""
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Result:
    """All outcomes in order of completion, the seconds from the begin to the last, errors by their text.

    `began` is the begin by `time.perf_counter`.
    """

    outcomes: list[Outcome]
    began: float
    seconds: float
    errors: dict[str, int] = field(default_factory=dict)

    def latencies_ms(self, operation: str = "") -> NDArray[np.float64]:
        """Of what was answered as it should be: of one operation, or of all."""
        wanted = (each for each in self.outcomes if each.good and operation in {"", each.operation})
        return np.array([each.latency_ms for each in wanted])

    def count(self, chosen: Callable[[Outcome], bool]) -> int:
        """How many outcomes are so."""
        return sum(map(chosen, self.outcomes))


class Driver:
    """Sends arrivals to a service, as the users that they name.

    A request's time counts from when it was due, so a service that stands still for a second has made everybody wait who
    came in that second. What the client itself is late by counts too, and is told as `lag_ms`.

    Args:
        address: the service's host and port.
        in_flight: requests under way at most; what is due beyond that is dropped and counted.
        key: an API key, where the service wants one.
        seed: of what users say.
    """

    def __init__(self, address: tuple[str, int], *, in_flight: int, key: str = "", seed: int = 1) -> None:
        self._address = address
        self._in_flight = in_flight
        self._key = key
        self._seed = seed
        self._persons: dict[str, Person] = {}
        self._errors: dict[str, int] = {}

    async def prepare(self, users: Iterable[str], memories: int) -> None:
        """Let each user remember so many things, before any clock runs.

        Raises:
            RuntimeError: the service refused.
        """
        client = Client(self._address, self._key)
        try:
            for user in sorted(set(users)):
                person = self._person(user)
                request = person.first(memories)
                status, _, body = await client.ask(request.method, request.path, request.body)
                if status >= 300:
                    raise RuntimeError(f"{request.path} was answered with {status}: {body[:300]!r}")
                person.answered(request, status, body)
        finally:
            client.close()

    async def run(self, arrivals: Sequence[Arrival]) -> Result:
        """Send them all and wait for the last answer."""
        outcomes: list[Outcome] = []
        clients = [Client(self._address, self._key) for _ in range(self._in_flight)]
        free = clients[::-1]
        self._errors = {}

        async def send(arrival: Arrival, due: float) -> None:
            lag_ms = (time.perf_counter() - due) * 1000
            operation, status = arrival.operation, DROPPED
            if free:
                client = free.pop()
                operation, status = await self._send(client, arrival)
                free.append(client)
            latency_ms = (time.perf_counter() - due) * 1000
            outcomes.append(Outcome(operation, arrival.offset_s, lag_ms, latency_ms, status))

        try:
            began = time.perf_counter()
            await paced(((each.offset_s, each) for each in arrivals), send, began=began, exact=True)
            return Result(outcomes, began, time.perf_counter() - began, self._errors)
        finally:
            for client in clients:
                client.close()
            await asyncio.sleep(0)  # lets the connections end

    async def _send(self, client: Client, arrival: Arrival) -> tuple[str, int]:
        """What was sent, and its status."""
        person = self._person(arrival.user)
        request = person.request(arrival.operation)
        status, body = UNANSWERED, b""
        try:
            status, _, body = await client.ask(request.method, request.path, request.body)
        except ConnectionError as error:
            self._failed(f"{request.operation}: {error}")
        person.answered(request, status, body)
        if status >= 300:
            self._failed(f"{request.operation}: {status} {body[:120].decode('utf-8', 'replace')}")
        return request.operation, status

    def _person(self, user: str) -> Person:
        if user not in self._persons:
            self._persons[user] = Person(user, self._seed)
        return self._persons[user]

    def _failed(self, what: str) -> None:
        """Count an error by its text; a bounded number of texts."""
        if what in self._errors or len(self._errors) < _TEXTS_MAX:
            self._errors[what] = self._errors.get(what, 0) + 1


_TEXTS_MAX = 20
