"""Every method of both clients against the service."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from memfast import errors

DIMENSIONS = 256


def unversioned(line):
    """A line without its version: a user's versions never begin again."""
    return re.sub(rb'"version":\d+', b"", line)


async def all_of(items):
    """What an iterator gives."""
    return [item async for item in items]


async def test_a_memory_from_its_beginning_to_its_end(client, user):
    """Add, get, change, delete, bring back, purge; each answer is the memory as it is then."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    fields = {
        "id": uuid.uuid4(),
        "kind": "opinion",
        "tags": ["food", "ναί"],
        "entities": ["Ada"],
        "importance": 0.25,
        "metadata": {"place": {"city": "Torino"}, "n": 7, "list": [1, None, "x"]},
        "agent_id": "agent",
        "run_id": "run",
        "source": "chat",
        "created_at": at,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
    }
    memory = await client.add(user, "Likes 寿司 and naïve 🍣.", **fields)
    assert memory.status == "created"
    assert {name: getattr(memory, name) for name in fields} == fields
    assert memory.text == "Likes 寿司 and naïve 🍣."
    found = await client.get(user, memory.id)
    assert found.metadata == fields["metadata"]
    assert (found.version, found.updated_at) == (memory.version, memory.updated_at)

    changed = await client.update(user, str(memory.id), text="Likes pizza.", tags=None, if_version=memory.version)
    assert (changed.text, changed.tags, changed.kind) == ("Likes pizza.", [], "opinion")
    assert changed.version > memory.version
    with pytest.raises(errors.PreconditionFailed):
        await client.delete(user, memory.id, if_version=memory.version)
    assert await client.delete(user, memory.id, if_version=changed.version) is None
    assert await client.delete(user, memory.id) is None
    with pytest.raises(errors.NotFound):
        await client.get(user, memory.id)
    back = await client.undelete(user, memory.id)
    assert back.text == "Likes pizza."
    events = await all_of(client.history(user, memory.id, page_items=2))
    assert [event.event for event in events] == ["created", "updated", "deleted", "undeleted"]
    assert events[1].previous_text == "Likes 寿司 and naïve 🍣."
    await client.delete(user, memory.id, purge=True)
    assert [(event.event, event.previous_text) for event in await all_of(client.history(user, memory.id))] == [
        ("deleted", None)
    ]


async def test_many_at_once(client, user):
    """Batches answer item by item, in order; one that fails leaves the others alone."""
    made = await client.add_many(user, ["a", {"text": "b", "importance": 2.0}, {"text": "c", "tags": ["t"]}])
    assert [each.status for each in made] == ["created", "error", "created"]
    assert made[1].problem.path == "$.memories[1].importance"
    ids = [made[0].id, made[2].id]
    changed = await client.update_many(user, [{"id": ids[0], "text": "A"}, {"id": ids[1], "text": "C", "version": 99}])
    assert [each.status for each in changed] == ["updated", "error"]
    found = await client.get_many(user, [*ids, uuid.UUID(int=7)])
    assert [memory.text for memory in found.memories] == ["A", "c"]
    assert found.missing == [uuid.UUID(int=7)]
    removal = await client.delete_matching(user, {"tags": "t"}, dry_run=True)
    assert (removal.matched, removal.deleted, removal.ids) == (1, 0, [ids[1]])
    assert (await client.delete_matching(user, {"tags": "t"}, limit=5)).deleted == 1
    assert [each.status for each in await client.delete_many(user, [ids[0]])] == ["deleted"]
    assert await all_of(client.list(user)) == []


async def test_listing_goes_over_pages(client, user):
    """All of them in order, whatever the pages; a limit ends it; filters narrow it."""
    await client.add_many(user, [{"text": f"{n}", "kind": "even" if n % 2 == 0 else "odd"} for n in range(11)])
    newest = [memory.text for memory in await all_of(client.list(user, page_items=3))]
    oldest = [memory.text for memory in await all_of(client.list(user, page_items=3, order="created_asc"))]
    assert newest == oldest[::-1]
    assert sorted(newest, key=int) == [str(n) for n in range(11)]
    for limit in (0, 1, 3, 4, 50):
        assert len(await all_of(client.list(user, page_items=3, limit=limit))) == min(limit, 11)
    assert len(await all_of(client.list(user, kind="even", page_items=2))) == 6
    assert len(await all_of(client.list(user, filter={"kind": {"ne": "even"}}))) == 5


async def test_searches(client, user):
    """By words, by a vector in every form, many at once; what is asked for beside the hits comes with them."""
    vector = np.random.default_rng(3).standard_normal(DIMENSIONS).astype(np.float32)
    await client.add(user, "The pump is called PX-71.", run_id="r")
    await client.add(user, "Something else.", run_id="r", embedding=vector)
    hits = await client.search(user, "PX-71", limit=1, explain=True, include_neighbors=1, neighbors=True)
    assert hits[0].text == "The pump is called PX-71."
    assert 0 < hits[0].score <= 1
    assert hits[0].scores.lexical.weight > 0
    assert [(each.text, each.distance) for each in hits[0].neighbors] == [("Something else.", 1)]
    assert hits.degraded == ()
    assert hits.version > 0
    assert hits.explain.mode == "hybrid"
    doubles = vector.astype(np.float64)
    for form in (vector, doubles, doubles.tolist(), tuple(doubles.tolist()), vector.tobytes(), doubles[::-1][::-1]):
        (best, *_) = await client.search(user, embedding=form, mode="vector")
        assert (best.text, best.score) == ("Something else.", 1.0)
    one, two, three = await client.search_many(user, ["PX-71", {"embedding": vector, "limit": 1}, {"query": ""}])
    assert one[0].text == "The pump is called PX-71."
    assert [hit.text for hit in two] == ["Something else."]
    assert isinstance(three, errors.InvalidRequest)
    assert three.path == "$.searches[2].query"


async def test_numbers_of_numpy_are_numbers(client, user):
    """Scalars and arrays in metadata are sent as what they are."""
    memory = await client.add(user, "x", importance=np.float32(0.5), metadata={"n": np.int64(3), "v": np.arange(3)})
    assert (await client.get(user, memory.id)).metadata == {"n": 3, "v": [0, 1, 2]}
    with pytest.raises(TypeError, match="object"):
        await client.add(user, "x", metadata={"n": object()})


async def test_links(client, user):
    """Made, changed, listed, walked over, removed."""
    a, b, c = [each.id for each in await client.add_many(user, ["a", "b", "c"])]
    assert (await client.link(user, a, b, weight=0.5, metadata={"why": "x"})).status == "created"
    assert (await client.link(user, a, b, weight=0.25)).status == "updated"
    made = await client.link_many(user, [{"from_id": b, "to_id": c, "type": "causes"}, {"from_id": a, "to_id": a}])
    assert [each.status for each in made] == ["created", "error"]
    assert [(each.text, each.depth, each.weight) for each in await client.related(user, a)] == [
        ("b", 1, 0.25),
        ("c", 2, 0.25),
    ]
    assert [each.text for each in await client.related(user, a, depth=1)] == ["b"]
    assert {link.type for link in await all_of(client.links(user, page_items=1))} == {"relates_to", "causes"}
    assert [link.type for link in await all_of(client.links(user, c))] == ["causes"]
    assert await client.unlink(user, a, b) is None
    with pytest.raises(errors.NotFound):
        await client.unlink(user, a, b)
    assert await client.related(user, a) == []


async def test_users(client, user):
    """They are listed, counted and forgotten, whatever their names."""
    name = f"{user}/100% ä?&=#"
    await client.add_many(name, ["a", "b"])
    assert (await client.user(name)).memories == 2
    assert name in [each.user_id for each in await all_of(client.users(page_items=2))]
    receipt = await client.forget(name)
    assert (receipt.user_id, receipt.memories) == (name, 2)
    assert receipt.remains
    for question in (client.user(name), client.forget(name)):
        with pytest.raises(errors.NotFound):
            await question


@pytest.mark.parametrize("size", [0, 1, 3000])
async def test_export_and_import(client, user, size):
    """What was exported comes back to the byte, in whatever pieces it is sent."""
    vectors = np.random.default_rng(5).standard_normal((size, DIMENSIONS)).astype(np.float32)
    for start in range(0, size, 50):
        items = [{"text": f"memory {n} ☃", "embedding": vectors[n]} for n in range(start, min(start + 50, size))]
        await client.add_many(user, items)
    if not size:
        memory = await client.add(user, "x")
        await client.delete(user, memory.id)
    lines = await all_of(client.export(user))
    assert len(lines) == size + (2 if size else 4), "a header and a trailer; what was deleted with its history"
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    await client.forget(user)
    data = b"".join(lines)
    report = await client.import_(data[at : at + 70_001] for at in range(0, len(data), 70_001))
    assert report.complete
    assert (report.created, report.errors) == (max(size, 1), 0)
    assert [unversioned(line) for line in await all_of(client.export(user))][1:] == [
        unversioned(line) for line in lines
    ][1:]


async def test_an_import_tells_of_lines(client, user):
    """A line that cannot be taken in is named; options are passed on."""
    lines = [b'{"type":"memory","text":"good"}\n', b'{"type":"memory"}\n', b"\n", b'{"type":"memory","text":"late"}\n']
    report = await client.import_(lines, user_id=user, part=True, on_error="stop")
    assert (report.created, report.errors, report.stopped_at) == (1, 1, 2)
    assert report.problems[0].line == 2
    with pytest.raises(errors.InvalidRequest):
        await client.import_(lines, user_id="")


async def test_service(client):
    """What the service says of itself."""
    health = await client.health()
    assert (health.status, health.mode) == ("ready", "full")
    assert health.embedder["dimensions"] == DIMENSIONS
    assert (await client.stats())["process"]["workers"]


async def test_errors_are_those_of_the_tree(client, user):
    """With what the service said, and the field that was wrong."""
    memory = await client.add(user, "x")
    with pytest.raises(errors.Conflict) as caught:
        await client.add(user, "y", id=memory.id)
    assert caught.value.problem.type == "urn:memfast:problem:conflict"
    assert caught.value.problem.status == 409
    with pytest.raises(errors.InvalidRequest) as caught:
        await client.add(user, "y", importance=7)
    assert caught.value.path == "$.importance"
    with pytest.raises(errors.InvalidRequest, match="nonsense"):
        await client.add(user, "y", nonsense=1)
    with pytest.raises(errors.PayloadTooLarge):
        await client.add(user, "y" * 200_000)
    with pytest.raises(errors.NotFound):
        await all_of(client.links(user, uuid.UUID(int=7)))
    with pytest.raises(errors.VersionAhead):
        await client.get(user, memory.id, min_version=f"{client.token(user).partition('.')[0]}.999999")
    with pytest.raises(errors.OtherLineage):
        await client.search(user, "x", min_version=f"{'0' * 32}.1")
    with pytest.raises(errors.InvalidRequest, match="printable"):
        await client.add(user, "y", idempotency_key="a\r\nb: c")


async def test_a_key_makes_a_write_happen_once(client, user):
    """The same key gives the first answer; for another request it is refused."""
    first = await client.add(user, "x", idempotency_key="k")
    again = await client.add(user, "x", idempotency_key="k")
    assert (again.id, again.version) == (first.id, first.version)
    with pytest.raises(errors.KeyReused):
        await client.add(user, "y", idempotency_key="k")
    assert len(await all_of(client.list(user))) == 1


async def test_equal_texts(client, user):
    """`status` tells what became of a memory that was there."""
    first = await client.add(user, "x")
    again = await client.add(user, " x ", dedupe=True)
    assert (again.status, again.id) == ("duplicate", first.id)
    assert (await client.add(user, "z", id=first.id, on_conflict="update")).status == "updated"


async def test_many_calls_at_once(connect, shared, user):
    """More calls than connections wait for each other, and each gets its own answer."""
    client = connect(shared.url, connections_max=4)
    made = await asyncio.gather(*(client.add(user, f"text {n}") for n in range(40)))
    found = await asyncio.gather(*(client.get(user, memory.id) for memory in made))
    assert [memory.text for memory in found] == [f"text {n}" for n in range(40)]


async def test_a_key_is_needed_where_there_are_keys(connect, serve, data_dir, command, poll, monkeypatch):
    """Without one, or with a wrong one, nothing is served but health; it may come from the environment."""
    service = serve(data_dir()).wait_until_ready()
    key, _ = command("keys", "create", "--user", "ada", data_dir=service.data_dir, expect=0)
    poll(lambda: service.client.get("/v1/users").status_code == 401)
    for wrong in (None, "mf_wrong"):
        with pytest.raises(errors.Unauthorized):
            await connect(service.url, wrong).add("ada", "x")
    assert (await connect(service.url).health()).status == "ready"
    await connect(service.url, key.strip()).add("ada", "x")
    monkeypatch.setenv("MEMFAST_URL", f"{service.url}/")
    monkeypatch.setenv("MEMFAST_API_KEY", key.strip())
    client = connect()
    assert client.url == service.url
    assert len(await all_of(client.list("ada"))) == 1
    with pytest.raises(errors.Forbidden):
        await client.add("bob", "x")


async def test_a_source_that_fails_is_not_the_service(client, user):
    """The error of whatever gives the lines comes through as it is, and nothing is left of the import's connection."""

    def lines():
        yield b'{"type":"memory","text":"x","user_id":"%s"}\n' % user.encode()
        raise ConnectionResetError("the file's own server")

    with pytest.raises(ConnectionResetError, match="file's own"):
        await client.import_(lines())
    assert (await client.add(user, "y")).text == "y"
