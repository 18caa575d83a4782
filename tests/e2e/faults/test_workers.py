"""Workers that die while PostgreSQL is away: the service stays, and works again when PostgreSQL does."""

import os
import signal

import httpx
import pytest

from memfast.store.embedded import Cluster

BACK_S = 40.0
"""A worker's patience, its successor's start, and a busy machine."""


@pytest.fixture
def server(new_server, base):
    """A PostgreSQL of a test's own, which it may stop."""
    cluster = Cluster(base / "postgres", major=18)
    yield new_server(cluster)
    cluster.stop()


@pytest.fixture
def service(server, serve, base):
    """A service of one worker over it."""
    dsn = server.new_database()
    settings = {"embedding_provider": "none", "embedding_dimensions": 4, "postgres_pool_min": 2, "postgres_pool_max": 4}
    return serve(base / "data", postgres_dsn=dsn, **settings).wait_until_ready()


def remember(service, text):
    """A write's status; None when nobody answers yet."""
    body = {"user_id": "ada", "text": text, "embedding": [1.0, 0.0, 0.0, 0.0]}
    try:
        return httpx.post(f"{service.url}/v1/memories", json=body, timeout=5, trust_env=False, verify=False).status_code
    except httpx.TransportError:
        return None


def test_workers_that_are_killed_while_postgresql_is_away_do_not_end_the_service(server, service, poll):
    """Three kills one after another; then a write succeeds without any start by hand, and what was there still is."""
    assert remember(service, "before") == 201
    server.cluster.stop()
    seen = set()
    for _ in range(3):
        (worker,) = poll(lambda: [pid for pid in service.workers() if pid not in seen])
        seen.add(worker)
        os.kill(worker, signal.SIGKILL)
    poll(lambda: [pid for pid in service.workers() if pid not in seen])
    assert service.process.poll() is None, service.output
    server.cluster.start()
    poll(lambda: remember(service, "after") == 201, BACK_S)
    found = service.client.get("/v1/memories", params={"user_id": "ada"}).json()["memories"]
    assert {"before", "after"} <= {each["text"] for each in found}
    assert service.stop() == 0


def test_a_worker_that_finds_no_postgresql_is_followed_by_another(server, service, poll):
    """Its patience ends, and that does not end the service; neither does a stop wait for PostgreSQL."""
    server.cluster.stop()
    (first,) = service.workers()
    os.kill(first, signal.SIGKILL)
    (second,) = poll(lambda: [pid for pid in service.workers() if pid != first])
    poll(lambda: [pid for pid in service.workers() if pid not in {first, second}], BACK_S)
    assert "waits for the database" in service.output
    assert service.process.poll() is None, service.output
    service.stop()
    server.cluster.start()
