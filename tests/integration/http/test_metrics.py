"""GET /metrics: what requests leave there, who may read it, and how many series there can be."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = "memfast_request_duration_seconds"


async def scrape(api, **arguments):
    """Every sample by name and labels."""
    response = await api.request("GET", "/metrics", **arguments)
    assert response.status_code == 200, response.text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(response.text)
        for sample in family.samples
    }


def added(before, after):
    """What has risen, by how much."""
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def requests(method, route, tier="none", status="2xx"):
    """The key of a count of requests."""
    return (f"{REQUESTS}_count", ("method", method), ("route", route), ("status", status), ("tier", tier))


async def test_each_tier_and_status_is_counted(api, user):
    """Cold, warm, hot; a success of a route without tiers, a refusal, and what no route serves."""
    before = await scrape(api)
    await api.create(user, text="a blue kitchen")
    body = {"user_id": user, "query": "kitchen", "mode": "vector"}
    tiers = [(await api.client.post("/v1/search", json=body | {"limit": n})).headers["memfast-tier"] for n in (3, 3, 4)]
    await api.services.warm.load(api.services.access.scope((await api.services.access.authenticate(None)), user))
    tiers.append((await api.client.post("/v1/search", json=body | {"limit": 5})).headers["memfast-tier"])
    memory = (await api.create(user))["id"]
    for _ in range(2):
        assert (await api.get(user, memory)).status_code == 200
    assert (await api.get(user, "nonsense")).status_code == 400
    assert (await api.request("GET", "/v1/nowhere/7")).status_code == 404
    assert (await api.request("PUT", "/v1/search")).status_code == 405
    assert (await api.request("POST", "/v1/search", json={"query": 7})).status_code == 400
    found = added(before, await scrape(api))
    assert tiers == ["cold", "hot", "cold", "warm"]
    for tier, count in (("cold", 2), ("hot", 1), ("warm", 1)):
        assert found[requests("POST", "/v1/search", tier)] == count
    assert found[requests("POST", "/v1/memories")] == 2
    assert found[requests("GET", "/v1/memories/{memory_id}", "warm")] == 2
    assert found[requests("GET", "/v1/memories/{memory_id}", status="4xx")] == 1
    assert found[requests("other", "other", status="4xx")] == 2
    assert found[requests("POST", "/v1/search", status="4xx")] == 1


async def test_stages_of_a_search_are_counted(api, user):
    """A cold one asks PostgreSQL, one by words a shard, and each is understood, ranked and encoded."""
    await api.create(user, text="a red bicycle")
    stage = "memfast_search_stage_duration_seconds_count"
    before = await scrape(api)
    await api.search(user, query="what is red?", mode="vector")
    cold = {key[1][1]: value for key, value in added(before, await scrape(api)).items() if key[0] == stage}
    assert {"decode", "cache", "warm", "embed", "sql", "rank", "encode"} <= set(cold)
    before = await scrape(api)
    await api.search(user, query="what is red?", mode="lexical")
    words = {key[1][1]: value for key, value in added(before, await scrape(api)).items() if key[0] == stage}
    assert {"decode", "rank", "encode"} <= set(words)
    assert not {"sql", "embed"} & set(words)


async def test_what_parts_count_is_there_after_a_second(api, user):
    """Hits of caches, connections and their waits, changes by result, flushes, texts that were embedded, the process."""
    before = await scrape(api)
    memory = (await api.create(user, text="something new to be embedded"))["id"]
    await api.delete(user, memory)
    for _ in range(2):
        await api.listing(user)

    async def risen():
        found = added(before, await scrape(api))
        wanted = [
            ("memfast_cache_hits_total", ("layer", "requests")),
            ("memfast_flush_changes_count",),
            ("memfast_worker_cpu_seconds_total", ("mode", "user")),
        ]
        return found if all(key in found for key in wanted) else None

    async with asyncio.timeout(10):
        while not (found := await risen()):
            await asyncio.sleep(0.05)
    assert found["memfast_writes_total", ("result", "created")] == 1
    assert found["memfast_writes_total", ("result", "deleted")] == 1
    assert found["memfast_embedding_batch_texts_sum",] == 1
    assert found["memfast_embedding_duration_seconds_count",] == 1
    assert found["memfast_pool_acquire_duration_seconds_count", ("pool", "work")] >= 3
    now = await scrape(api)
    assert now["memfast_workers",] == 1
    assert now["memfast_mode", ("mode", "full")] == 1
    assert now["memfast_breaker_state", ("breaker", "postgresql"), ("state", "closed")] == 1
    assert now["memfast_worker_resident_memory_bytes", ("worker", "0")] > 1e6
    assert now["memfast_pool_limit_connections", ("pool", "work")] == api.services.pool.limit
    assert sum(now["memfast_pool_connections", ("pool", "work"), ("state", state)] for state in ("idle", "used")) > 0


async def test_layers_tell_how_old_their_entries_are(api, user):
    """In the metrics, the statistics and of the worker's own layers: an entry grows older, a new one is young."""
    await api.create(user, text="the attic is warm")
    await api.services.warm.load(api.services.access.scope((await api.services.access.authenticate(None)), user))
    await api.search(user, query="attic")

    async def told():
        stats = {each["layer"]: each for each in (await api.request("GET", "/v1/stats")).json()["caches"]}
        now = await scrape(api)
        cache = (await api.request("GET", "/v1/cache")).json()
        return stats, now, {**cache["layers"], "warm": cache["warm"] | {"entries": cache["warm"]["users"]}}

    async def grown():
        stats, now, own = await told()
        return (stats, now, own) if min(stats[each]["oldest_age_s"] for each in _LAYERS) >= 0.5 else None

    async with asyncio.timeout(15):
        while not (found := await grown()):
            await asyncio.sleep(0.05)
    stats, now, own = found
    for layer in _LAYERS:
        for told_of in (stats[layer], own[layer]):
            assert told_of["entries"] >= 1
            assert 0 <= told_of["mean_age_s"] <= told_of["oldest_age_s"]
        assert own[layer]["oldest_age_s"] >= stats[layer]["oldest_age_s"], "what is read now is older than a second ago"
    for layer in ("search", "embeddings"):
        total, entries, oldest = (
            now[f"memfast_cache_{name}", ("layer", layer)] for name in ("age_seconds", "entries", "oldest_seconds")
        )
        assert 0 < total <= oldest * entries
    assert 0 < now["memfast_warm_age_seconds",] <= now["memfast_warm_oldest_seconds",] * now["memfast_warm_users",]


_LAYERS = ("warm", "search", "embeddings", "requests")


async def test_the_number_of_series_is_flat(api):
    """Whatever users there are, and whatever paths, methods, ids and traces clients think of."""

    async def noise(number):
        name = f"noisy-{number}"
        await api.listing(name)
        await api.request("GET", f"/v1/memories/{number}?user_id={name}")
        await api.request("GET", f"/v1/{name}", headers={"x-request-id": name})
        await api.request(f"M{number % 50}", "/v1/search")
        await api.request("GET", f"/metrics/{name}")

    await noise(0)
    before = len(await scrape(api))
    for number in range(1, 1000):
        await noise(number)
    for user in range(10_000):
        api.services.access.scope(await api.services.access.authenticate(None), f"u-{user}")
    assert len(await scrape(api)) == before


async def test_openmetrics_and_text(api):
    """As asked for; both are documented."""
    plain = await api.request("GET", "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    asked = await api.request("GET", "/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert asked.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert asked.text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("host", "public", "status"), [("127.0.0.1", False, 200), ("0.0.0.0", False, 401), ("0.0.0.0", True, 200)]
)
async def test_who_needs_a_key(server, make_site, open_api, host, public, status):
    """Nobody on a service that only its machine reaches, else administrators, unless the metrics are public."""
    site = make_site(server.new_database(), server__host=host, metrics__public=public)
    async with open_api(site) as api:
        from memfast.service.access import Keyring
        from memfast.store.keys import PostgresKeys

        keyring = Keyring(PostgresKeys(api.services.pool), api.services.clock)
        roles = {role: await keyring.create(namespace="n", user_id=None, role=role) for role in ("user", "admin")}
        await api.services.coherence.check()
        assert (await api.request("GET", "/metrics")).status_code == status
        for role, allowed in (("user", 403 if status == 401 else 200), ("admin", 200)):
            headers = {"authorization": f"Bearer {roles[role].secret}"}
            assert (await api.request("GET", "/metrics", headers=headers)).status_code == allowed


async def test_statistics_tell_of_the_last_minutes(api, user):
    """Every operation that was asked, with its times, and what the process uses; administrators only."""
    await api.create(user, text="a green door")
    for _ in range(3):
        await api.search(user, query="door")
    await api.search(user, query=7)

    async def told():
        answer = (await api.request("GET", "/v1/stats")).json()
        return answer if answer["process"]["resident_bytes"] else None

    async with asyncio.timeout(10):
        while not (answer := await told()):
            await asyncio.sleep(0.05)
    assert [window["minutes"] for window in answer["windows"]] == [1, 5, 60]
    assert answer["process"]["workers"] == 1
    assert answer["pool"]["limit"] == api.services.pool.limit
    for window in (*answer["windows"], answer["total"]):
        operations = {f"{each['method']} {each['route']}": each for each in window["operations"]}
        search = operations["POST /v1/search"]
        assert search["requests"] >= 4
        assert search["tiers"]["hot"] >= 1
        assert search["refused"] >= 1
        assert 0 < search["p50_ms"] <= search["p95_ms"] <= search["p99_ms"]
        assert search["mean_ms"] > 0
        assert window["requests"] == sum(each["requests"] for each in operations.values())
