"""The wall clock is set by an hour, forth and back, under a working service."""

import time
from pathlib import Path

import pytest

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def test_a_step_of_the_wall_clock_changes_nothing_that_waits_or_expires(server, serve, base, monkeypatch, poll):
    """Kept answers stay, nothing is refused, the breaker is closed, writes go on, and ids rise all the same."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed")
    clock = base / "clock"
    clock.write_text("+0")
    clock.chmod(0o644)
    for name, value in {
        "LD_PRELOAD": LIBRARIES[0],
        "FAKETIME_TIMESTAMP_FILE": clock,
        "FAKETIME_NO_CACHE": 1,
        "FAKETIME_DONT_FAKE_MONOTONIC": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    settings = {"embedding_provider": "none", "embedding_dimensions": 2, "postgres_pool_min": 2, "postgres_pool_max": 4}
    service = serve(base / "data", postgres_dsn=server.new_database(), **settings).wait_until_ready()
    for name in ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE"):
        monkeypatch.delenv(name)
    question = {"user_id": "ada", "embedding": [1.0, 0.0]}
    ids, hours = [], []

    def remember():
        made = service.client.post("/v1/memories", json={"user_id": "bob", "text": "x", "embedding": [1.0, 0.0]})
        assert made.status_code == 201, made.text
        ids.append(made.json()["id"])
        hours.append(made.json()["created_at"][:13])

    service.client.post("/v1/memories", json={**question, "text": "kept"}).raise_for_status()
    service.client.post("/v1/search", json=question).raise_for_status()
    remember()
    for step in ("+3600", "+0", "-3600", "+0"):
        clock.write_text(step)
        began = time.monotonic()
        kept = service.client.post("/v1/search", json=question)
        assert (kept.status_code, kept.headers["memfast-tier"]) == (200, "hot"), step
        remember()
        assert service.client.get("/v1/users/bob", headers={"Memfast-Timeout-Ms": "5000"}).status_code == 200
        assert time.monotonic() - began < 20
        health = poll(lambda: (told := service.client.get("/v1/health").json())["mode"] == "full" and told)
        assert health["breakers"][0]["state"] == "closed", step
    assert len(set(hours)) >= 3, "the clock of the service was really set"
    assert ids == sorted(ids)
