"""Users for Locust.

Locust is in `memfast[load]`. From the root of the project:

    locust -f bench/load/locustfile.py --host http://127.0.0.1:8077 --users 20 --spawn-rate 10 [--headless --run-time 60s]

Each has memories of its own and waits for an answer before it goes on: a closed loop, which a slow service slows. What
users feel who come whether it is slow or not is measured by `python -m bench.load`. The variable MEMFAST_API_KEY holds a
key, where the service wants one.
"""

from __future__ import annotations

import itertools
import os

from locust import FastHttpUser, between, task

from bench.load.mix import OPERATIONS, Person

__all__ = ["Agent"]

_numbers = itertools.count()


class Agent(FastHttpUser):
    """A user that does what `bench.load.mix` says, a few times a second."""

    host = "http://127.0.0.1:8077"
    wait_time = between(0.05, 0.5)

    def on_start(self) -> None:
        """Become somebody."""
        self._person = Person(f"load-{os.getpid()}-{next(_numbers)}")
        key = os.environ.get("MEMFAST_API_KEY", "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    @task(OPERATIONS["search"])
    def search(self) -> None:
        """Ask something, new or again."""
        self._do("search")

    @task(OPERATIONS["remember"])
    def remember(self) -> None:
        """Create a memory."""
        self._do("remember")

    @task(OPERATIONS["get"])
    def get(self) -> None:
        """Read a memory."""
        self._do("get")

    @task(OPERATIONS["update"])
    def update(self) -> None:
        """Change a memory's text."""
        self._do("update")

    @task(OPERATIONS["delete"])
    def delete(self) -> None:
        """Delete a memory."""
        self._do("delete")

    def _do(self, operation: str) -> None:
        request = self._person.request(operation)
        answer = self.client.request(
            request.method, request.path, json=request.body, headers=self._headers, name=request.operation
        )
        self._person.answered(request, answer.status_code, answer.content or b"")
