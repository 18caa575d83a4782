"""Many clients send the same writes at the same time while workers are killed: each happens once."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

KEYS, SENDERS = (60, 8) if os.environ.get("SOAK", "1") == "1" else (1000, 20)
"""Writes, and clients that send each of them; `make soak` takes the long form."""

SEED = int(os.environ.get("IDEMPOTENCY_SEED", "1"))
KILL_EVERY = 12
"""Keys of which one is sent while a worker is killed."""

USERS = 4
PATIENCE_S = 60.0
WHOLE = ("content-type", "location", "etag", "memfast-version", "memfast-token", "memfast-status")


def request(number):
    """The address and the body of a write: a memory, or a batch of two."""
    user = f"user {number % USERS}"
    if number % 3:
        return "/v1/memories", {"user_id": user, "text": f"text {number}"}
    return "/v1/memories/batch", {"user_id": user, "memories": [{"text": f"text {number}{part}"} for part in "ab"]}


def texts(number):
    """What a write stores."""
    body = request(number)[1]
    return [item["text"] for item in body.get("memories", [body])]


class Sender:
    """A client that sends a write until it has an answer, as its documentation tells it to."""

    def __init__(self, url):
        self._client = httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False)
        self.failures = Counter()

    def send(self, number):
        """The whole answer, and whether it says that it was given before."""
        path, body = request(number)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                response = self._client.post(path, json=body, headers={"idempotency-key": f"key {number}"})
            except httpx.TransportError as error:
                self.failures[type(error).__name__] += 1
                continue
            if response.status_code < 300:
                replayed = response.headers.get("idempotent-replayed") == "true"
                whole = tuple(response.headers.get(name) for name in WHOLE)
                return (response.status_code, response.content, whole), replayed
            assert response.status_code in {409, 429, 503, 504}, response.text
            assert response.headers["retry-after"], response.text
            self.failures[response.status_code] += 1
        pytest.fail(f"no answer to key {number} within {PATIENCE_S:g} s: {self.failures}")

    def close(self):
        self._client.close()


def oldest(service):
    """The worker that has run the longest; the other one is left to serve."""
    return min(service.workers(), key=lambda pid: psutil.Process(pid).create_time())


def kill_soon(service, poll, chance):
    """Kill a worker within the time that a write takes; another one is there already."""
    poll(lambda: len(service.workers()) == 2)
    time.sleep(chance.uniform(0, 0.01))
    with contextlib.suppress(ProcessLookupError):
        os.kill(oldest(service), signal.SIGKILL)


def race(service, poll):
    """Send every write from all senders at the same moment; the answers by write, and what failed on the way."""
    chance = random.Random(SEED)
    barrier = threading.Barrier(SENDERS + 1)
    answers = [[] for _ in range(KEYS)]
    senders = [Sender(service.url) for _ in range(SENDERS)]

    def work(sender):
        try:
            for number in range(KEYS):
                barrier.wait(2 * PATIENCE_S)
                answers[number].append(sender.send(number))
        except BaseException:
            barrier.abort()  # the others shall not wait for one that has failed
            raise

    with ThreadPoolExecutor(SENDERS) as threads:
        tasks = [threads.submit(work, sender) for sender in senders]
        with contextlib.suppress(threading.BrokenBarrierError):
            for number in range(KEYS):
                barrier.wait(2 * PATIENCE_S)
                if number % KILL_EVERY == KILL_EVERY // 2:
                    kill_soon(service, poll, chance)
        errors = [error for task in tasks if (error := task.exception()) is not None]
    for sender in senders:
        sender.close()
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    return answers, sum((sender.failures for sender in senders), Counter())


def stored(service):
    """The texts of all memories."""
    found = []
    for user in range(USERS):
        cursor = {}
        while True:
            page = service.client.get("/v1/memories", params={"user_id": f"user {user}", "limit": 1000} | cursor).json()
            found += [memory["text"] for memory in page["memories"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
    return found


def test_a_write_with_a_key_happens_once(serve, data_dir, poll):
    """Two workers, one of them killed again and again: one row each, equal bytes for all, also after a restart."""
    folder = data_dir()
    service = serve(folder, workers=2).wait_until_ready()
    poll(lambda: len(service.workers()) == 2)
    answers, failures = race(service, poll)
    assert Counter(stored(service)) == Counter(text for number in range(KEYS) for text in texts(number))
    for number, given in enumerate(answers):
        assert len(given) == SENDERS
        assert len({whole for whole, _ in given}) == 1, f"key {number}: {given}"
        assert sum(not replayed for _, replayed in given) <= 1
    assert failures.total() > 0, "no request met a worker that was killed"
    assert service.stop() == 0
    service = serve(folder, workers=2).wait_until_ready()
    sender = Sender(service.url)
    try:
        assert [sender.send(number) for number in range(KEYS)] == [(given[0][0], True) for given in answers]
    finally:
        sender.close()
    print(f"{KEYS} keys, {SENDERS} senders, seed {SEED}; on the way: {dict(failures)}")
    assert service.stop() == 0
