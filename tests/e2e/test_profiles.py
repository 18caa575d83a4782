"""The profiles as they are shipped: each starts with its values, and its workers hold its bound on memory when full."""

import threading

import psutil
import pytest

from memfast.config import PROFILES, Config, load

MIB = 1024 * 1024
BOUNDS_MB = {"balanced": 500, "high-traffic": 2048, "memory-constrained": 256}
OWN_MB = 90
"""What a worker takes without any copy."""

USERS, MEMORIES, BATCH = 8, 1000, 250
DETAILS = {"filler": "".join(chr(33 + n * 7 % 90) for n in range(12_000)).replace('"', "-").replace("\\", "-")}
"""Metadata of 12 KB: what a memory weighs in memory, and in every answer that shows it."""


class Peak:
    """The largest memory that the workers of a service have together while a block runs, in MiB."""

    def __init__(self, service):
        self._workers = [psutil.Process(pid) for pid in service.workers()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.mib = 0.0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(0.02):
            self.mib = max(self.mib, sum(worker.memory_full_info().pss for worker in self._workers) / MIB)


def test_the_bounds_are_those_of_the_profiles():
    """As the program has them; what they let layers hold fits into them, with what a worker itself takes."""
    for profile, bound_mb in BOUNDS_MB.items():
        config = load({"MEMFAST_PROFILE": profile}).config
        assert config.memory.budget_mb == bound_mb
        assert config.cache.memory_mb + config.index.memory_mb + OWN_MB <= bound_mb
    assert PROFILES["balanced"] == {}


@pytest.mark.parametrize("profile", BOUNDS_MB)
def test_a_profile_starts_and_answers(serve, data_dir, profile):
    """With two workers, both below its bound."""
    service = serve(data_dir(), profile=profile, workers=2).wait_until_ready()
    assert service.remember("the kitchen is blue").status_code == 201
    assert service.search("kitchen") == ["the kitchen is blue"]
    with Peak(service) as peak:
        for number in range(50):
            assert service.search(f"which kitchen {number}") == ["the kitchen is blue"]
    assert 20 < peak.mib < BOUNDS_MB[profile]


@pytest.mark.parametrize(("profile", "part"), [("memory-constrained", 1), ("high-traffic", 8)])
def test_a_full_service_holds_its_bound(serve, data_dir, profile, part):
    """More warm users and answers than fit: copies leave, answers stay right. The large profile's settings to scale."""
    config: Config = load({"MEMFAST_PROFILE": profile}).config
    budget_mb = OWN_MB + (config.memory.budget_mb - OWN_MB) // part
    scaled = {
        "cache_memory_mb": config.cache.memory_mb // part,
        "index_memory_mb": config.index.memory_mb // part,
        "memory_budget_mb": budget_mb,
    }
    service = serve(data_dir(), profile=profile, **scaled).wait_until_ready()
    with Peak(service) as peak:
        _fill(service)
        for turn in range(4):
            for user in range(USERS):
                for number in range(3):
                    body = {
                        "user_id": f"user-{user}",
                        "query": f"question {turn} {number} of memory {turn}",
                        "limit": 100,
                    }
                    answer = service.client.post("/v1/search", json=body)
                    assert answer.status_code == 200, answer.text
                    assert len(answer.json()["results"]) == 100
        counts = service.client.get("/v1/cache").json()
    assert counts["warm"]["users"] >= 1
    assert counts["warm"]["evictions"] > 0, "the users fitted: nothing was filled"
    left = sum(layer["evictions"] for layer in counts["layers"].values()) + counts["pressure"]["clean_ups"]
    assert left > 0, "the answers fitted: nothing was filled"
    assert peak.mib < budget_mb


def _fill(service):
    for user in range(USERS):
        for start in range(0, MEMORIES, BATCH):
            items = [{"text": f"memory {start + n} of {user}", "metadata": DETAILS} for n in range(BATCH)]
            stored = service.client.post("/v1/memories/batch", json={"user_id": f"user-{user}", "memories": items})
            assert stored.status_code == 200, stored.text
