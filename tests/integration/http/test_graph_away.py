"""A service whose Neo4j is cut off, freezes, drips or falls silent: all is answered, and Neo4j comes back by itself."""

import asyncio
import socket
import sys
from itertools import count, pairwise
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

from bench.harness.proxy import BlackHole, Drip, Proxy

WAIT_S = 90.0
numbers = count(1)


class Faults:
    """A Neo4j behind a proxy, and the ways in which it goes away."""

    def __init__(self, server, proxy):
        self.server = server
        self.proxy = proxy

    async def silent(self):
        """Bytes are lost, connections stay."""
        self.proxy.faults.append(BlackHole())

    async def dripping(self):
        """A byte a second."""
        self.proxy.faults.append(Drip(1, 1.0))

    async def frozen(self):
        """It takes connections."""
        self.server.freeze()

    async def cut(self):
        """Connections break, and there are no new ones."""
        self.proxy.accepting = False
        self.proxy.cut()

    async def mend(self, name):
        """End a fault."""
        self.proxy.faults.clear()
        self.proxy.accepting = True
        self.proxy.cut()
        if name == "frozen":
            self.server.thaw()


@pytest.fixture(scope="module")
def free_port():
    """Where the proxy listens: the settings name it before it does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def settings(graph_server, free_port):
    """A service that reaches Neo4j through the proxy, and has time for everything but for Neo4j."""
    graph = {"uri": f"bolt://127.0.0.1:{free_port}", "user": graph_server.user, "password": graph_server.password}
    alone = {"links.similar": 0, "links.entities": 0}  # the user's version stays as it is
    times = {"server.read_timeout_s": 30.0, "server.write_timeout_s": 30.0}
    return (
        {f"graph.{name}": value for name, value in graph.items()}
        | {"graph.pool_min": 2, "graph.pool_max": 4}
        | times
        | alone
    )


async def related(api, user, start, **parameters):
    """An answer that nothing has kept."""
    parameters |= {"user_id": user, "depth": 2, "min_weight": next(numbers) / 1_000_000}
    response = await api.client.get(f"/v1/memories/{start}/related", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def until(condition):
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", ["silent", "dripping", "frozen", "cut"])
async def test_neo4j_away(graph_server, free_port, site, open_api, name):
    """Searches, writes and walks go on; the breaker opens, the answers say so, and Neo4j answers again later."""
    async with (
        Proxy(("127.0.0.1", graph_server.port), ("127.0.0.1", free_port)) as proxy,
        open_api(site) as api,
    ):
        faults = Faults(graph_server, proxy)
        user, writer = (f"{each} {name}" for each in ("user", "writer"))
        ids = [(await api.create(user, f"memory {number}"))["id"] for number in range(4)]
        links = [{"from_id": a, "to_id": b, "weight": 0.5} for a, b in pairwise(ids)]
        made = await api.client.post("/v1/links/batch", json={"user_id": user, "links": links})
        assert made.status_code == 200, made.text

        async def by_neo4j():
            answer = await related(api, user, ids[0])
            assert [each["id"] for each in answer["results"]] == ids[1:3]
            return answer["engine"] == "neo4j" and answer["degraded"] == []

        async def breaker(state):
            health = (await api.client.get("/v1/health")).json()
            (found,) = [each["state"] for each in health["breakers"] if each["name"] == "neo4j"]
            assert ("neo4j" in health["degraded"]) == (found != "closed")
            return found == state

        await until(by_neo4j)
        await getattr(faults, name)()
        try:

            async def opens():
                answer = await related(api, user, ids[0])
                assert [each["id"] for each in answer["results"]] == ids[1:3]
                assert answer["engine"] == "neo4j" or answer["degraded"] == ["neo4j"]
                await api.create(writer, "still written")
                assert (await api.search(user, query="memory", limit=2)).status_code == 200
                return await breaker("open")

            await until(opens)
            answer = await related(api, user, ids[0])
            assert (answer["engine"], answer["degraded"]) == ("postgresql", ["neo4j"])
            health = (await api.client.get("/v1/health")).json()
            assert (health["status"], health["mode"]) == ("ready", "reduced")
        finally:
            await faults.mend(name)
        await until(by_neo4j)
        assert await breaker("closed")
