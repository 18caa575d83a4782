"""A worker whose database was moved to another model: it follows, or refuses what needs vectors and says why."""

import asyncio

from memfast.bootstrap import succession

VECTOR = [1.0, *[0.0] * 15]


async def move(api, settings):
    """Let another generation be the current one, with a vector of each memory; gives the number of the old one."""
    async with api.database() as connection, connection.transaction():
        old = await connection.fetchval(
            "UPDATE embedders SET state = 'retired' WHERE state = 'current' RETURNING generation"
        )
        await connection.execute(
            "INSERT INTO embedders (generation, model, dimensions, state, settings)"
            " VALUES ($1 + 1, 'openai/other', 3, 'current', $2::text::json)",
            old,
            settings,
        )
        await connection.execute(
            "INSERT INTO memory_vectors (scope_id, id, generation, embedding)"
            " SELECT scope_id, id, $1 + 1, '[1,0,0]' FROM memories WHERE deleted_at IS NULL",
            old,
        )
    return old


async def move_back(api, old):
    """As before."""
    async with api.database() as connection, connection.transaction():
        await connection.execute("DELETE FROM memory_vectors WHERE generation <> $1", old)
        await connection.execute("DELETE FROM embedders WHERE generation > $1", old)
        await connection.execute("UPDATE embedders SET state = 'current' WHERE generation = $1", old)


async def test_a_model_that_nobody_can_ask(server, make_site, open_api, check_problem, monkeypatch):
    """What needs vectors is refused with the reason, the rest goes on, and so does all when the old one is back."""
    monkeypatch.setattr(succession, "PATIENCE_S", 0.2)
    monkeypatch.setattr(succession, "RETRY_S", 0.05)
    site = make_site(server.new_database(), embedding__provider="none", embedding__dimensions=16)
    async with open_api(site) as api:
        made = await api.create("ada", text="kept", embedding=VECTOR)
        old = await move(api, None)
        found = await api.search("ada", embedding=VECTOR)
        async with asyncio.timeout(10):
            while found.status_code == 200:  # from copies that are still true
                found = await api.search("ada", embedding=VECTOR)
        check_problem(found, 503, "embedder-changed")
        new = {"user_id": "ada", "text": "new", "embedding": VECTOR}
        check_problem(await api.client.post("/v1/memories", json=new), 503, "embedder-changed")
        batch = {"searches": [{"user_id": "ada", "embedding": VECTOR}]}
        check_problem(await api.client.post("/v1/search/batch", json=batch), 503, "embedder-changed")
        assert (await api.get("ada", made["id"])).status_code == 200
        assert len((await api.listing("ada")).json()["memories"]) == 1
        await move_back(api, old)
        assert (await api.create("ada", text="new", embedding=VECTOR))["version"] == 2
        assert len((await api.search("ada", embedding=VECTOR)).json()["results"]) == 2


async def test_what_cannot_be_opened_is_not_tried_without_a_pause(
    server, make_site, open_api, check_problem, monkeypatch
):
    """Also where it fails in a way that nobody expected, and however many requests ask for it."""
    monkeypatch.setattr(succession, "PATIENCE_S", 0.2)
    monkeypatch.setattr(succession, "RETRY_S", 600.0)
    tries = []

    def fails(site, _meter):
        tries.append(site)
        raise RuntimeError("a fault of ours")

    site = make_site(server.new_database(), embedding__provider="none", embedding__dimensions=16)
    async with open_api(site) as api:
        await api.create("ada", text="kept", embedding=VECTOR)
        monkeypatch.setattr(succession, "open_services", fails)
        await move(api, None)
        for _ in range(3):
            new = {"user_id": "ada", "text": "new", "embedding": VECTOR}
            check_problem(await api.client.post("/v1/memories", json=new), 503, "embedder-changed")
    assert len(tries) == 1


async def test_a_request_that_meets_the_move_is_answered_by_the_new_model(server, make_site, open_api):
    """The very first one that needs vectors: nobody is refused, and the length that is taken is the new one's."""
    site = make_site(server.new_database(), embedding__provider="none", embedding__dimensions=16)
    settings = (
        '{"provider": "openai", "model": "other", "base_url": "http://127.0.0.1:9/v1", "dimensions": 3,'
        ' "send_dimensions": false, "encoding_format": "base64"}'
    )
    async with open_api(site) as api:
        made = await api.create("ada", text="kept", embedding=VECTOR)
        await move(api, settings)
        changed = await api.patch("ada", made["id"], {"kind": "note"})
        assert changed.status_code == 200, changed.text
        found = await api.search("ada", embedding=[1.0, 0.0, 0.0])
        assert [hit["score"] for hit in found.json()["results"]] == [1.0]
        refused = await api.search("ada", embedding=VECTOR)
        assert refused.status_code == 400
        health = (await api.client.get("/v1/health")).json()
        assert health["embedder"]["dimensions"] == 3
