"""The graph is a copy: whatever dies in between, in the end it has what PostgreSQL has, no more and no less."""

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections import Counter

import asyncpg
import httpx
import neo4j
import psutil
import pytest

from memfast.store.embedded import Cluster

KILLS = 4 if os.environ.get("SOAK", "1") == "1" else 200
"""Workers that are killed between a commit and its relay; `make soak` takes the long form."""

SEED = int(os.environ.get("GRAPH_SEED", "1"))
USERS, MEMORIES = 4, 12
WAIT_S = 120.0
BACK_S = 240.0
"""Within which walks are made by a Neo4j that has started: most of it is planning, which is slow in a new process."""

EDGES = """
MATCH (a:MemfastMemory) - [r:MEMFAST_LINK|MEMFAST_ARROW] -> (b:MemfastMemory)
RETURN a.scope_id, a.id, b.id, r.type, r.weight, type(r) = 'MEMFAST_ARROW'
"""
PLANT = """
MATCH (s:MemfastScope) WHERE NOT EXISTS { MATCH (m:MemfastMemory) WHERE m.scope_id = s.id }
CREATE (:MemfastMemory {scope_id: s.id, id: 'x'})
"""
NODES = "MATCH (m:MemfastMemory) WHERE m.gone IS NULL RETURN m.scope_id, m.id"


class Graph:
    """What a Neo4j has, asked without memfast."""

    def __init__(self, server):
        self._server = server

    def rows(self, statement):
        """The rows of a statement, counted."""
        authority = (self._server.user, self._server.password)
        with neo4j.GraphDatabase.driver(self._server.uri, auth=authority, telemetry_disabled=True) as driver:
            return Counter(tuple(record.values()) for record in driver.execute_query(statement).records)

    def erase(self):
        """Everything."""
        self.rows("MATCH (n) DETACH DELETE n")


async def stored(data_dir):
    """The edges and nodes that PostgreSQL has, counted, and how many steps wait."""
    connection = await asyncpg.connect(**Cluster(data_dir).running().connect_arguments())
    try:
        links = await connection.fetch("SELECT scope_id, from_id, to_id, type, weight, directed FROM links")
        nodes = await connection.fetch("SELECT scope_id, id FROM memories WHERE deleted_at IS NULL")
        waiting = await connection.fetchval("SELECT count(*) FROM outbox")
    finally:
        await connection.close()
    edges = Counter((str(row[0]), str(row[1]), str(row[2]), *tuple(row)[3:]) for row in links)
    return edges, Counter((str(row[0]), str(row[1])) for row in nodes), waiting


@pytest.fixture
def graph(graph_server):
    """The session's Neo4j, empty."""
    graph = Graph(graph_server)
    graph.erase()
    return graph


def settings_of(server):
    """What a service needs to know of a Neo4j."""
    return {"neo4j_uri": server.uri, "neo4j_user": server.user, "neo4j_password": server.password}


async def until_equal(graph, data_dir):
    """Wait until nothing waits; then both have the same."""
    deadline = time.monotonic() + WAIT_S
    while True:
        await asyncio.sleep(0.1)
        edges, nodes, waiting = await stored(data_dir)
        if not waiting or time.monotonic() > deadline:
            found = graph.rows(EDGES), graph.rows(NODES)
            if found == (edges, nodes) or time.monotonic() > deadline:
                assert waiting == 0
                assert found == (edges, nodes)
                return edges


class Writer:
    """A client that makes and removes links, and repeats what had no answer."""

    def __init__(self, service):
        self._client = httpx.Client(base_url=service.url, timeout=20, trust_env=False, verify=False)
        self._chance = random.Random(SEED)
        self._ids = {}
        for number in range(USERS):
            user = f"user {number}"
            body = {"user_id": user, "memories": [{"text": f"text {each}"} for each in range(MEMORIES)]}
            self._ids[user] = [each["id"] for each in self.send("POST", "/v1/memories/batch", json=body)["results"]]

    def send(self, method, path, **request):
        """The answer, after as many tries as that takes."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                response = self._client.request(method, path, **request)
                if response.status_code < 500 and response.status_code != 429:
                    return response.json() if response.content else None
        pytest.fail(f"no answer to {method} {path}")

    def change(self):
        """One write."""
        user = self._chance.choice(list(self._ids))
        ids = self._ids[user]
        a, b = self._chance.sample(ids, 2)
        named = {"user_id": user, "from_id": a, "to_id": b, "type": self._chance.choice("xy")}
        kind = self._chance.random()
        if kind < 0.7:
            weight = round(self._chance.random(), 2)
            self.send("POST", "/v1/links", json=named | {"weight": weight, "directed": kind < 0.3})
        elif kind < 0.9:
            self.send("DELETE", "/v1/links", params=named)
        elif kind < 0.95 and len(ids) > 4:
            ids.remove(a)
            self.send("DELETE", f"/v1/memories/{a}", params={"user_id": user})
        else:
            ids.append(self.send("POST", "/v1/memories", json={"user_id": user, "text": "new"})["id"])

    def close(self):
        self._client.close()


def oldest(service):
    """The worker that has run the longest."""
    return min(service.workers(), key=lambda pid: psutil.Process(pid).create_time())


async def test_killed_between_commit_and_relay(serve, data_dir, poll, graph, graph_server):
    """Workers are killed right after they have acknowledged: no link is lost in the graph, none doubled."""
    folder = data_dir()
    service = serve(folder, workers=2, **settings_of(graph_server)).wait_until_ready()
    writer = Writer(service)
    try:
        for _ in range(KILLS):
            poll(lambda: len(service.workers()) == 2)
            for _ in range(5):
                writer.change()
            with contextlib.suppress(ProcessLookupError):
                os.kill(oldest(service), signal.SIGKILL)
        poll(lambda: len(service.workers()) == 2)
    finally:
        writer.close()
    edges = await until_equal(graph, folder)
    assert edges.total() > 5
    assert service.stop() == 0
    print(f"{KILLS} kills, seed {SEED}, {edges.total()} links: none lost, none doubled")


async def test_a_graph_that_lost_everything_is_built_again(serve, data_dir, make_graph_server):
    """Neo4j is killed and comes back with an empty store, while links are written: complete again by itself."""
    folder = data_dir()
    with make_graph_server() as server:
        graph = Graph(server)
        service = serve(folder, **settings_of(server)).wait_until_ready()
        writer = Writer(service)
        try:
            for _ in range(40):
                writer.change()
            await until_equal(graph, folder)
            server.kill()
            for _ in range(20):
                writer.change()
            shutil.rmtree(server.folder / "data")
            server.start()
            for _ in range(20):
                writer.change()
            assert (await until_equal(graph, folder)).total() > 5
        finally:
            writer.close()
        assert service.stop() == 0


async def test_walks_outlive_the_graph(serve, data_dir, make_graph_server):
    """Neo4j is killed, and comes back with its store, then with none: all walks go on, and it makes them again."""
    with make_graph_server() as server:
        service = serve(data_dir(), **settings_of(server)).wait_until_ready()
        memories = [{"text": f"text {number}"} for number in range(4)]
        made = service.client.post("/v1/memories/batch", json={"user_id": "user", "memories": memories})
        ids = [each["id"] for each in made.json()["results"]]
        links = [{"from_id": a, "to_id": b, "weight": 0.5, "type": "x"} for a, b in itertools.pairwise(ids)]
        service.client.post("/v1/links/batch", json={"user_id": "user", "links": links}).raise_for_status()
        turns = itertools.count(1)

        async def engine():
            turn = next(turns)  # no walk is like one before
            asked = {"user_id": "user", "depth": 2, "min_weight": turn / 1_000_000} | (
                {"type": "x"} if turn % 2 else {}
            )
            answer = await asyncio.to_thread(service.client.get, f"/v1/memories/{ids[0]}/related", params=asked)
            assert answer.status_code == 200, answer.text
            assert [each["id"] for each in answer.json()["results"]] == ids[1:3]
            return answer.json()["engine"]

        async def walked_by_neo4j():
            async with asyncio.timeout(BACK_S):
                while (await engine(), await engine()) != ("neo4j", "neo4j"):
                    await asyncio.sleep(0.1)

        await walked_by_neo4j()
        for emptied in (False, True):
            server.kill()
            assert await engine() == "postgresql"
            if emptied:
                shutil.rmtree(server.folder / "data")
            starting = asyncio.create_task(asyncio.to_thread(server.start))
            while not starting.done():
                await engine()
                await asyncio.sleep(0.1)
            await starting
            await walked_by_neo4j()
        assert service.stop() == 0


def looked_at(command, settings):
    """What `verify-forgotten` says of the graph; the database's files have what was deleted, too."""
    told = json.loads(command("verify-forgotten", "user 1", "--json", expect=10, **settings)[0])
    return {each["layer"]: each["state"] for each in told["layers"]}["graph"]


async def test_commands(serve, data_dir, command, graph, graph_server, poll):
    """Status tells what there is, rebuild mends what only it can find, a forgotten user is found nowhere, off is off."""
    folder = data_dir()
    settings = settings_of(graph_server)
    service = serve(folder, **settings).wait_until_ready()
    settings |= {"data_dir": folder, "port": service.port}
    writer = Writer(service)
    try:
        for _ in range(30):
            writer.change()
        await until_equal(graph, folder)
        found = json.loads(command("graph", "status", "--json", expect=0, **settings)[0])
        assert (found["graph"], found["users"], found["backlog"]["state"]) == ("built", USERS, "on")
        graph.rows("MATCH (m:MemfastMemory) WITH m LIMIT 5 DETACH DELETE m")
        lines = command("graph", "rebuild", "--json", expect=0, **settings)[0].splitlines()
        assert json.loads(lines[-1]) == {"users": USERS, "users_total": USERS}
        await until_equal(graph, folder)
        assert "built" in command("graph", "status", expect=0, **settings)[0]
        receipt = service.client.delete("/v1/users/user 1").json()
        assert receipt["copies"]["graph"] >= 4
        await until_equal(graph, folder)
        assert looked_at(command, settings) == "clean"
        graph.rows(PLANT)
        assert looked_at(command, settings) == "found"
        assert service.client.get("/v1/health").json()["graph"]["state"] == "on"
        command("graph", "off", expect=0, **settings)
        for _ in range(10):
            writer.change()
        assert (await stored(folder))[2] == 0
        poll(lambda: service.client.get("/v1/health").json()["graph"]["state"] == "off")
    finally:
        writer.close()
    assert service.stop() == 0
