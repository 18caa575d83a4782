"""`memfast reembed` beside a real service: writers and searchers go on, the command is killed, and all is right after."""

import asyncio
import importlib.util
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import pytest

from memfast.store.embedded import Cluster

_path = Path(__file__).parents[1] / "integration" / "embedding" / "endpoint.py"
_spec = importlib.util.spec_from_file_location("embedding_endpoint_e2e", _path)
_endpoint = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _endpoint  # where its dataclasses look for it
_spec.loader.exec_module(_endpoint)

OLD, NEW = ("old", 8), ("new", 12)
FIRST, SECOND = 2, 3
"""Their generations: the data directory was made for another one."""

USERS, ROWS = 12, 40
QUIET = range(6)
"""Users to whom nobody writes; the others are for the writers."""
WAIT_S = 30.0


def vector_of(text, model):
    """What a model makes of a text, not of norm 1."""
    name, dimensions = model
    return _endpoint.vector_of(f"{name}: {text}", dimensions)


def unit_vector_of(text, model):
    """The same of norm 1, as it is stored."""
    vector = vector_of(text, model).astype(np.float64)
    return vector / np.linalg.norm(vector)


class Models:
    """Two models behind one endpoint, in a thread of its own."""

    def __init__(self):
        self.base_url = ""
        self._left = None
        self._holds = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(WAIT_S)

    async def _serve(self):
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with _endpoint.serving() as endpoint:
            endpoint.answer = self._answer
            self.base_url = endpoint.base_url
            self._started.set()
            await self._over.wait()

    def _answer(self, request):
        model = OLD if request["model"] == OLD[0] else NEW
        vectors = [_endpoint.as_form(vector_of(text, model), "base64") for text in request["input"]]
        rows = [{"object": "embedding", "index": row, "embedding": vector} for row, vector in enumerate(vectors)]
        reply = _endpoint.listing(rows)
        if model is NEW and self._left is not None:
            self._left -= 1
            if self._left < 0:
                self._holds.set()
                reply.cut_after = 1  # and silent until the client goes
        return reply

    def hold_after(self, requests):
        """Answer so many more requests of the new model; None for all."""
        self._holds.clear()
        self._left = requests

    def wait_for_held(self):
        """Return when a request is kept waiting."""
        assert self._holds.wait(WAIT_S)

    def close(self):
        """End the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(WAIT_S)


@pytest.fixture
def models(monkeypatch):
    """The endpoint; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Models()
    try:
        yield running
    finally:
        running.close()


def settings_of(models, model):
    """The settings of a service that embeds by a model."""
    return {
        "embedding_provider": "openai",
        "embedding_base_url": models.base_url,
        "embedding_model": model[0],
        "embedding_dimensions": model[1],
    }


@pytest.fixture
def service(serve, data_dir, models):
    """Two workers that embed by the old model, with memories of twelve users."""
    running = serve(data_dir(), workers=2, **settings_of(models, OLD)).wait_until_ready()
    for number in range(USERS):
        body = {"user_id": f"user {number}", "memories": [{"text": f"{number} and {row}"} for row in range(ROWS)]}
        assert running.client.post("/v1/memories/batch", json=body).status_code == 200
    return running


def words(service, models, *more):
    """The command that moves to the new model."""
    target = ("--provider", "openai", "--model", NEW[0], "--dimensions", str(NEW[1]), "--base-url", models.base_url)
    return ["reembed", "--data-dir", str(service.data_dir), *target, *more]


def found(service, number):
    """The finished answer of a search of a user by vectors, over a connection of its own: any worker's."""
    body = {"user_id": f"user {number}", "query": "which", "mode": "vector", "limit": 10}
    with httpx.Client(base_url=service.url, timeout=WAIT_S, trust_env=False, verify=False) as client:
        answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.content


def require_nearest(body, texts, model):
    """The hits are the nearest of these texts by this model, by exact comparison."""
    query = unit_vector_of("which", model)
    scores = {text: max(0.0, float(unit_vector_of(text, model) @ query)) for text in texts}
    best = sorted(scores.items(), key=lambda item: -item[1])[:10]
    hits = [(hit["text"], hit["score"]) for hit in json.loads(body)["results"]]
    assert len(hits) == len(best)
    assert [text for text, score in hits if score] == [text for text, score in best if score]
    assert np.allclose([score for _, score in hits], [score for _, score in best], atol=2e-6)


def rows_of(service, statement):
    """Rows of a statement, from the service's own database."""

    async def fetch():
        connection = await asyncpg.connect(**Cluster(service.data_dir).running().connect_arguments())
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, fetch()).result()


def vectors(service):
    """How many vectors each generation has."""
    return dict(rows_of(service, "SELECT generation, count(*)::int FROM memory_vectors GROUP BY 1"))


def saved(service):
    """The files of saved users."""
    return list((service.data_dir / "snapshots").glob("*"))


class Traffic:
    """Writers and searchers, each with a thread and a client of its own, until the block ends. No request may fail."""

    def __init__(self, service):
        self.said = {}
        self.bodies = {number: set() for number in QUIET}
        self._service = service
        self._over = threading.Event()
        self._rounds = [0] * 4
        self._stack = ExitStack()

    def __enter__(self):
        pool = self._stack.enter_context(ThreadPoolExecutor(4))
        self._work = [pool.submit(self._write, 0, 6), pool.submit(self._write, 1, 9)]
        self._work += [pool.submit(self._search, 2), pool.submit(self._search, 3)]
        return self

    def __exit__(self, *_details):
        self._over.set()
        self._stack.close()
        for each in self._work:
            each.result()

    def wait_for_rounds(self, poll, rounds=3):
        """Return when each has made so many rounds from now on, or has failed."""
        before = list(self._rounds)

        def went_on():
            for each in self._work:
                assert not each.done(), each.result()
            return all(now >= then + rounds for now, then in zip(self._rounds, before, strict=True))

        poll(went_on)

    def _write(self, mine, first):
        with httpx.Client(base_url=self._service.url, timeout=WAIT_S, trust_env=False, verify=False) as client:
            while not self._over.is_set():
                self._rounds[mine] += 1
                user = f"user {first + self._rounds[mine] % 3}"
                kept, changed, gone = (self._create(client, user, f"{mine}.{self._rounds[mine]}.{n}") for n in range(3))
                answer = client.patch(f"/v1/memories/{changed}", params={"user_id": user}, json={"text": f"new {kept}"})
                assert answer.status_code == 200, answer.text
                self.said[changed] = f"new {kept}"
                answer = client.delete(f"/v1/memories/{gone}", params={"user_id": user})
                assert answer.status_code == 204, answer.text
                del self.said[gone]

    def _create(self, client, user, text):
        answer = client.post("/v1/memories", json={"user_id": user, "text": text})
        assert answer.status_code == 201, answer.text
        self.said[answer.json()["id"]] = text
        listed = client.post("/v1/search", json={"user_id": user, "query": text, "mode": "vector", "limit": 1})
        assert [hit["text"] for hit in listed.json()["results"]] == [text], listed.text  # its own write, at once
        return answer.json()["id"]

    def _search(self, mine):
        while not self._over.is_set():
            self._rounds[mine] += 1
            number = QUIET[self._rounds[mine] % len(QUIET)]
            self.bodies[number].add(found(self._service, number))


def test_a_move_under_traffic(service, models, running, command, poll, gone):
    """Killed twice on the way: after it every memory has one vector, by the new model, and no answer mixes models."""
    before = {number: found(service, number) for number in QUIET}
    for number, body in before.items():
        require_nearest(body, [f"{number} and {row}" for row in range(ROWS)], OLD)
    command("warm", "--all", data_dir=service.data_dir, port=service.port, expect=0)
    assert len(saved(service)) == USERS
    with Traffic(service) as traffic:
        for after in (4, 2):
            models.hold_after(after)
            with running(words(service, models)) as move:
                models.wait_for_held()
                traffic.wait_for_rounds(poll)
                move.process.send_signal(signal.SIGKILL)
            assert set(vectors(service)) == {FIRST, SECOND}
        models.hold_after(None)
        with running(words(service, models)) as move:
            told, exit_code = move.told()
        assert exit_code == 0, told.decode()
        assert b"Traceback" not in told
        assert b"the database was moved" in told
        poll(lambda: all(found(service, number) != before[number] for number in [*QUIET] * 2))
        traffic.wait_for_rounds(poll)
    after = {number: found(service, number) for number in QUIET}
    for number, body in after.items():
        require_nearest(body, [f"{number} and {row}" for row in range(ROWS)], NEW)
        assert traffic.bodies[number] == {before[number], body}
    require_all_moved(service, traffic)
    assert saved(service) == []
    for worker in service.workers():  # its successor is a child of a parent that knows the old model
        os.kill(worker, signal.SIGKILL)
        poll(lambda worker=worker: gone(worker))
    poll(lambda: len(service.workers()) == 2 and service.ready())
    assert {number: found(service, number) for number in QUIET} == after
    told = command(*words(service, models), expect=0)[1]
    assert "there already" in told


def require_all_moved(service, traffic):
    """Each memory has one vector, of the new generation and its text, and nothing of the old one is left."""
    said = rows_of(service, "SELECT id::text, text FROM memories WHERE deleted_at IS NULL")
    assert len(said) == USERS * ROWS + len(traffic.said)
    assert traffic.said.items() <= dict(said).items()
    held = rows_of(service, "SELECT id::text, generation, embedding::text FROM memory_vectors")
    assert sorted(each for each, _, _ in held) == sorted(each for each, _ in said)
    assert {generation for _, generation, _ in held} == {SECOND}
    texts = dict(said)
    for memory_id, _, vector in held:
        assert np.allclose(json.loads(vector), unit_vector_of(texts[memory_id], NEW), atol=1e-6), texts[memory_id]
    assert rows_of(service, f"SELECT count(*) FROM history WHERE generation = {FIRST}") == [(0,)]
    assert rows_of(service, f"SELECT count(*) FROM reembedded WHERE generation = {FIRST}") == [(0,)]
    assert rows_of(service, "SELECT generation FROM embedders WHERE state <> 'erased'") == [(SECOND,)]


def test_a_roll_back_before_the_switch(service, models, running, command):
    """The answers keep their bytes all the way; status says what there is; nothing of the new model is left."""
    before = {number: found(service, number) for number in range(USERS)}
    models.hold_after(4)
    with running(words(service, models)) as move:
        models.wait_for_held()
        told = command(*words(service, models, "--rollback"), expect=1)[1]
        assert "another `memfast reembed`" in told
        move.process.send_signal(signal.SIGKILL)
    assert vectors(service) == {FIRST: USERS * ROWS, SECOND: 256}
    status, _ = command(*words(service, models, "--status"), expect=0)
    assert [line.split() for line in status.splitlines()[1:]] == [
        ["2", "current", "openai/old", "8", "480"],
        ["3", "building", "openai/new", "12", "256"],
    ]
    other = [*words(service, models), "--model", "third"]
    assert "a move to openai/new with 12 dimensions is not finished" in command(*other, expect=1)[1]
    assert {number: found(service, number) for number in range(USERS)} == before
    service.client.post("/v1/cache/clear")
    assert "given up" in command(*words(service, models, "--rollback"), expect=0)[1]
    assert "no move to give up" in command(*words(service, models, "--rollback"), expect=0)[1]
    assert {number: found(service, number) for number in range(USERS)} == before
    assert vectors(service) == {FIRST: USERS * ROWS}
    assert rows_of(service, "SELECT generation FROM embedders WHERE state <> 'erased'") == [(FIRST,)]
    assert rows_of(service, "SELECT count(*) FROM reembedded") == [(0,)]


def test_a_restart_after_a_move(service, serve, models, command):
    """Beside no service; the next start follows, with the old settings and with the new, but with no third ones."""
    assert service.stop() == 0
    command(*words(service, models), expect=0)
    for model in (OLD, NEW):
        later = serve(service.data_dir, **settings_of(models, model)).wait_until_ready()
        require_nearest(found(later, 0), [f"0 and {row}" for row in range(ROWS)], NEW)
        assert ("was moved from openai/old" in later.output) == (model is OLD)
        assert later.remember("one more").status_code == 201
        assert later.stop() == 0
    refused = serve(service.data_dir, **settings_of(models, ("third", 8)))
    assert refused.wait() == 6
    assert "memfast reembed" in refused.output


def test_what_cannot_be_moved_to(service, models, command):
    """A model that is none, one that cannot be reached, and settings that are not valid: exit codes, and no change."""
    own = ("reembed", "--data-dir", service.data_dir)
    assert "makes no vectors" in command(*own, "--provider", "none", "--dimensions", 8, expect=2)[1]
    assert "embedding.provider" in command(*own, "--provider", "nobody", expect=2)[1]
    closed = ("--provider", "openai", "--model", "m", "--dimensions", 8, "--base-url", "http://127.0.0.1:9/v1")
    assert "cannot be reached" in command(*own, *closed, expect=1)[1]
    assert rows_of(service, "SELECT generation FROM embedders WHERE state <> 'erased'") == [(FIRST,)]
