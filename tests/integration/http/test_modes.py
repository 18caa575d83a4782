"""What each mode serves and refuses, cell by cell of the document's table, and what an answer says of it."""

import asyncio
import base64
import re
from pathlib import Path

import numpy as np
import pytest

from memfast.service.modes import HOLD_S

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "resilience.md"
UNCONFIRMED = "copies are not confirmed"
CELLS = {
    (mode, UNCONFIRMED if cells[1] == UNCONFIRMED else "by order", operation, served)
    for line in DOCUMENT.read_text().split("## Modes\n")[1].split("\n## ")[0].splitlines()
    if line.startswith("| `")
    for mode, cells in [(line.split("`")[1], [cell.strip() for cell in line.strip("|").split("|")])]
    for served, cell in ((True, cells[4]), (False, cells[5]))
    for operation in re.findall(r"`([^`]+)`", cell)
}
ALL = {"health", "get", "kept search", "warm search", "cold search", "list", "write"}
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def settings():
    """Vectors come from the tests."""
    return {"embedding.provider": "none", "embedding.dimensions": 16, "resilience.postgres_failures": 5}


def vector():
    """A random vector as base64."""
    return base64.b64encode(RNG.standard_normal(16).astype("<f4").tobytes()).decode()


def order(api, mode):
    """Bring the running service into a mode, as `resilience.mode` does at its start."""
    api.services.modes.order(mode)


class Users:
    """One user of whom everything is kept and warm, and one of whom nothing is."""

    def __init__(self, api):
        self.api = api
        self.known, self.other = api.new_user(), api.new_user()
        self.kept = {"embedding": vector()}

    async def prepare(self):
        for user in (self.known, self.other):
            items = [{"text": f"m{n}", "embedding": vector()} for n in range(5)]
            self.memory = (await self.api.create_many(user, items))[0]["id"] if user == self.known else self.memory
        await self.api.search(self.known, **self.kept)
        await self.api.client.post("/v1/warm", json={"users": [self.known]})

    async def do(self, operation):
        api = self.api
        new = {"user_id": self.known, "text": "new", "embedding": vector()}
        requests = {
            "health": lambda: api.client.get("/v1/health/live"),
            "get": lambda: api.get(self.known, self.memory),
            "kept search": lambda: api.search(self.known, **self.kept),
            "warm search": lambda: api.search(self.known, embedding=vector()),
            "cold search": lambda: api.search(self.other, embedding=vector()),
            "list": lambda: api.listing(self.other, limit=3),
            "write": lambda: api.client.post("/v1/memories", json=new),
        }
        return await requests[operation]()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("mode", "trigger", "operation", "served"), sorted(CELLS))
async def test_a_cell_of_the_table(api, mode, trigger, operation, served, monkeypatch):
    """Served as in full health and marked, or refused at once with a hint, and then not half done."""
    users = Users(api)
    await users.prepare()
    before = await api.counts()
    if trigger == UNCONFIRMED:
        monkeypatch.setattr(api.services.coherence, "stale_for_s", lambda: 5.0)
    else:
        order(api, mode)
    try:
        response = await users.do(operation)
        health = (await api.client.get("/v1/health")).json()
    finally:
        monkeypatch.undo()
        order(api, "auto")
    assert (health["mode"], bool(health["mode_reason"])) == (mode, mode != "full")
    assert response.headers.get("memfast-mode", "full") == mode
    assert bool(response.headers.get("memfast-mode-reason")) == (mode != "full")
    assert ("age" in response.headers) == (mode == "cache_only")
    if served:
        assert response.status_code in {200, 201}
    else:
        assert response.status_code == 503
        assert 1 <= int(response.headers["retry-after"]) <= 5
        assert response.json()["type"].rpartition(":")[2] in {"mode-refused", "store-unavailable"}
        assert await api.counts() == before
    if operation in {"kept search", "warm search", "cold search"} and served:
        assert response.headers["memfast-tier"] == {"kept": "hot"}.get(operation.split()[0], operation.split()[0])


def test_the_table_speaks_of_every_operation():
    """Each is either served or refused in each mode."""
    assert {mode for mode, *_ in CELLS} == {"full", "reduced", "cache_only", "essential"}
    for mode, trigger in {each[:2] for each in CELLS}:
        told = [operation for *each, operation, _ in CELLS if each == [mode, trigger]]
        assert set(told) >= ALL - ({"get"} if (mode, trigger) == ("cache_only", "by order") else set()), mode
        assert len(told) == len(set(told)), mode


@pytest.mark.asyncio(loop_scope="module")
async def test_a_refused_write_leaves_the_copies_as_they_are(api):
    """While PostgreSQL is away the reads live on copies: a write that was never begun does not void them."""
    users = Users(api)
    await users.prepare()
    order(api, "cache_only")
    try:
        for _ in range(3):
            assert (await users.do("write")).status_code == 503
            assert (await api.client.delete(f"/v1/users/{users.known}")).status_code == 503
        tiers = [(await users.do(each)).headers["memfast-tier"] for each in ("kept search", "warm search")]
    finally:
        order(api, "auto")
    assert tiers == ["hot", "warm"]


async def test_redis_away_is_said_and_changes_no_answer(server, make_site, open_api, redis, monkeypatch):
    """Mode `reduced`, named in the header and in health, answers as before to the byte; both end by themselves."""
    monkeypatch.setitem(HOLD_S, "reduced", 0.2)
    settings = {"embedding__provider": "none", "embedding__dimensions": 16, "redis__min_cost_ms": 0.0}
    site = make_site(server.new_database(), redis__url=redis.url, index__memory_mb=0, **settings)

    async def stands(api, mode):
        async with asyncio.timeout(20):
            while api.services.modes.standing().mode != mode:
                await api.services.shared.get([b"k"])
                await asyncio.sleep(0.01)
        return (await api.client.get("/v1/health")).json()

    async with open_api(site) as api:
        users = Users(api)
        await users.prepare()
        question = {"embedding": vector()}
        assert (await stands(api, "full"))["degraded"] == []
        before = [await api.search(users.known, **question), await users.do("get"), await users.do("list")]
        redis.kill()
        health = await stands(api, "reduced")
        assert (health["degraded"], health["status"]) == (["redis"], "ready")
        assert health["mode_reason"].startswith("redis: ")
        api.services.answers.clear()
        after = [await api.search(users.known, **question), await users.do("get"), await users.do("list")]
        assert [each.content for each in after] == [each.content for each in before]
        assert {each.headers["memfast-mode"] for each in after} == {"reduced"}
        assert after[0].headers["memfast-tier"] == "cold"
        assert (await users.do("write")).status_code == 201
        redis.start()
        health = await stands(api, "full")
        assert (health["degraded"], health["mode_reason"]) == ([], "")
        assert "memfast-mode" not in (await api.search(users.known, **question)).headers


async def test_a_mode_is_ordered_by_configuration(server, make_site, open_api):
    """From the start of the service on."""
    site = make_site(
        server.new_database(), resilience__mode="essential", embedding__provider="none", embedding__dimensions=16
    )
    async with open_api(site) as api:
        refused = await api.client.get("/v1/users")
        assert (refused.status_code, refused.headers["memfast-mode"]) == (503, "essential")
        assert refused.headers["memfast-mode-reason"] == "ordered by resilience.mode"
        assert (await api.client.get("/v1/health/ready")).status_code == 200
