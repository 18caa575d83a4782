"""Export and import over HTTP: what comes out goes in again, line for line, and nothing else does."""

import asyncio
import base64
import json
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
import pytest_asyncio

from memfast import kernels
from memfast.errors import StoreUnavailable
from memfast.service import imports

pytestmark = pytest.mark.asyncio(loop_scope="module")

NDJSON = {"content-type": "application/x-ndjson"}
TEXTS = ["tea", "é\u2028ß", "日本語のメモ", "line\nbreak", '"quoted" \\ {"type":"trailer"}', "x" * 5000]


async def exported(api, **parameters):
    """The lines of an export, decoded."""
    response = await api.client.get("/v1/export", params=parameters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.split("\n") if line]


async def imported(api, lines, **parameters):
    """Send lines; gives the report, whose counts add up."""
    body = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    response = await api.client.post("/v1/import", params=parameters, content=body, headers=NDJSON)
    assert response.status_code == 200, response.text
    report = response.json()
    frames = sum(isinstance(line, dict) and line.get("type") in {"header", "trailer"} for line in lines)
    counted = sum(report[name] for name in ("created", "updated", "duplicate", "history", "links", "skipped", "errors"))
    assert counted == sum(line != b"" for line in lines) - frames
    return report


def clean(report):
    """Whether nothing was amiss."""
    return report["errors"] == 0 and report["problems"] == [] and report["complete"] is not False


async def live_a_life(api, users, rng, steps):
    """Any writes of any users: creates, changes, deletes, undeletes, purges."""
    alive, gone = {user: [] for user in users}, {user: [] for user in users}
    for _ in range(steps):
        user = rng.choice(users)
        what = rng.random()
        if what < 0.5 or not alive[user]:
            fields = {
                "tags": rng.sample(["a", "b", "ü"], rng.randrange(3)),
                "entities": rng.sample(["Ada", "Bob"], rng.randrange(2)),
                "importance": rng.choice([0.0, 0.1, 1.0]),
                "metadata": rng.choice([{}, {"n": 1.0, "deep": {"l": [1, None, "é"]}}]),
                "kind": rng.choice(["fact", "event"]),
                "run_id": rng.choice([None, "run-1"]),
            }
            if rng.random() < 0.2:
                fields["expires_at"] = "2099-01-01T00:00:00Z"
            if rng.random() < 0.2:
                fields["created_at"] = "2020-02-29T12:00:00.000001+02:00"
            alive[user].append((await api.create(user, rng.choice(TEXTS), **fields))["id"])
        elif what < 0.7:
            await api.patch(user, rng.choice(alive[user]), {"text": rng.choice(TEXTS), "source": "edit"})
        elif what < 0.85:
            target = alive[user].pop(rng.randrange(len(alive[user])))
            assert (await api.delete(user, target)).status_code == 204
            gone[user].append(target)
        elif what < 0.95 and gone[user]:
            target = gone[user].pop()
            path = f"/v1/memories/{target}/undelete"
            assert (await api.client.post(path, params={"user_id": user})).status_code == 200
            alive[user].append(target)
        elif gone[user]:
            path = f"/v1/memories/{gone[user].pop()}"
            assert (await api.client.delete(path, params={"user_id": user, "purge": "true"})).status_code == 204


@pytest_asyncio.fixture(loop_scope="module")
async def empty(server, make_site, open_api):
    """Another service on an empty database."""
    async with open_api(make_site(server.new_database())) as running:
        yield running


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_was_exported_is_exported_again_line_for_line(server, make_site, open_api, seed):
    """Random lives of some users, moved into an empty database, are the same there: only the header's origin differs."""
    rng = random.Random(seed)
    users = [f"{name}-{seed}" for name in ("ada", "bob", "o'neil/ü")]
    async with open_api(make_site(server.new_database())) as source:
        await live_a_life(source, users, rng, 60)
        lines = await exported(source)
        searched = {user: (await source.search(user, query="tea", limit=50)).content for user in users}
        raw = (await source.client.get("/v1/export")).content
    async with open_api(make_site(server.new_database())) as target:
        report = await imported(target, raw.split(b"\n")[:-1][1:-1])
        assert clean(report), report
        assert report["embedded"] == 0
        again = await exported(target)
        assert again[1:] == lines[1:]
        changed = {key for key in lines[0] if lines[0][key] != again[0][key]}
        assert changed <= {"lineage", "exported_at"}
        for user in users:
            hits = [hit | {"version": 0} for hit in json.loads(searched[user])["results"]]
            found = (await target.search(user, query="tea", limit=50)).json()["results"]
            assert [hit | {"version": 0} for hit in found] == hits


async def test_a_second_time_nothing_changes(api, user):
    """The same file again, whatever is to happen on conflicts: all duplicates, not a row more, no version moved."""
    await live_a_life(api, [user], random.Random(5), 30)
    lines = await exported(api, user_id=user)
    before, told = await api.counts(), await api.client.get(f"/v1/users/{user}")
    for on_conflict in ("error", "update", "ignore"):
        report = await imported(api, lines, on_conflict=on_conflict)
        assert report["complete"] is True
        assert (report["created"], report["updated"], report["errors"], report["skipped"]) == (0, 0, 0, 0)
        assert report["duplicate"] == lines[-1]["memories"] + lines[-1]["deleted"]
        assert report["history"] == lines[-1]["history"]
    assert await api.counts() == before
    assert (await api.client.get(f"/v1/users/{user}")).json() == told.json()
    assert (await exported(api, user_id=user))[1:] == lines[1:]


async def link(api, user, from_id, to_id, **fields):
    """Link two memories."""
    body = {"user_id": user, "from_id": from_id, "to_id": to_id} | fields
    assert (await api.client.post("/v1/links", json=body)).is_success


async def links_of(api, user):
    """A user's links without their versions, which are of where they lie."""
    found = (await api.client.get("/v1/links", params={"user_id": user, "limit": 1000})).json()["links"]
    return [{name: value for name, value in each.items() if name != "version"} for each in found]


@pytest.mark.parametrize("step", [1000, 3])
async def test_links_come_along(api, empty, user, monkeypatch, step):
    """All of them as they were, in steps of any size; again they change nothing, and they go where they may."""
    ids = sorted([(await api.create(user, text))["id"] for text in "abcd"])
    soon = (await api.create(user, "soon over", expires_at="2099-01-01T00:00:00Z"))["id"]
    await link(api, user, ids[0], ids[1], weight=0.25, metadata={"n": 1.50, "deep": [None]})
    await link(api, user, ids[2], ids[1], directed=True, type="contradicts")
    await link(api, user, ids[0], soon)
    await link(api, user, soon, ids[3])
    monkeypatch.setattr(imports, "STEP_MEMORIES", step)
    lines = await exported(api, user_id=user)
    assert [line["type"] for line in lines[-5:]] == ["link"] * 4 + ["trailer"]
    assert lines[-1]["links"] == 4
    report = await imported(empty, lines)
    assert (report["links"], report["complete"], clean(report)) == (4, True, True)
    assert await links_of(empty, user) == await links_of(api, user)
    assert (await exported(empty, user_id=user))[1:] == lines[1:]
    before = await links_of(empty, user)
    for parameters in ({}, {"on_conflict": "ignore"}, {"on_conflict": "update"}):
        assert (await imported(empty, lines, **parameters))["links"] == 4
        assert await links_of(empty, user) == before
    async with api.database() as connection:
        await connection.execute("UPDATE memories SET expires_at = '2020-01-01' WHERE id = $1", UUID(soon))
    assert (await exported(api, user_id=user))[-1]["links"] == 2


async def test_links_that_conflict_or_lead_nowhere(api, user):
    """What is there with other content is decided by `on_conflict`; an end that is not there is an error."""
    a, b = sorted([(await api.create(user, text))["id"] for text in "ab"])
    await link(api, user, a, b, weight=0.5)
    line = {"type": "link", "user_id": user, "from_id": b, "to_id": a, "weight": 0.75}
    report = await imported(api, [line])
    assert (report["errors"], report["problems"][0]["problem"]["type"]) == (1, "urn:memfast:problem:conflict")
    assert (await imported(api, [line], on_conflict="ignore"))["links"] == 1
    assert [each["weight"] for each in await links_of(api, user)] == [0.5]
    assert (await imported(api, [line], on_conflict="update"))["links"] == 1
    assert [each["weight"] for each in await links_of(api, user)] == [0.75]
    nowhere, itself = line | {"to_id": str(uuid4())}, line | {"to_id": b}
    memory = {"type": "memory", "user_id": user, "text": "after"}
    report = await imported(api, [nowhere, itself, line | {"weight": 2}, line, memory], on_conflict="update")
    assert [each["line"] for each in report["problems"]] == [1, 2, 3]
    assert (report["links"], report["created"]) == (1, 1)
    report = await imported(api, [nowhere, line, memory | {"text": "left out"}], on_error="stop", on_conflict="update")
    assert (report["links"], report["skipped"], report["errors"], report["stopped_at"]) == (1, 1, 1, 1)


async def test_history_and_undelete_come_along(api, empty, user):
    """In the new home a memory's events read as in the old one, and a deleted memory comes back with its vector."""
    kept = await api.create(user, "one")
    await api.patch(user, kept["id"], {"text": "two"})
    lost = await api.create(user, "lost and found")
    await api.delete(user, lost["id"])
    lines = await exported(api, user_id=user)
    assert clean(await imported(empty, lines))
    path = f"/v1/memories/{kept['id']}/history"
    told = [(await each.client.get(path, params={"user_id": user})).json() for each in (api, empty)]
    assert told[0] == told[1]
    assert [event["event"] for event in told[1]["events"]] == ["created", "updated"]
    back = await empty.client.post(f"/v1/memories/{lost['id']}/undelete", params={"user_id": user})
    assert back.json()["text"] == "lost and found"
    found = (await empty.search(user, query="lost and found", limit=1)).json()["results"]
    assert found[0]["id"] == lost["id"]


async def test_conflicts(api, user):
    """A memory with the id and other content: refused, left, or replaced with its old text in history."""
    memory = await api.create(user, "ours")
    line = next(each for each in await exported(api, user_id=user) if each["type"] == "memory")
    theirs = {**line, "text": "theirs", "embedding": None}
    report = await imported(api, [theirs])
    assert report["errors"] == 1
    assert report["problems"][0]["line"] == 1
    assert report["problems"][0]["problem"]["status"] == 409
    assert (await imported(api, [theirs], on_conflict="ignore"))["duplicate"] == 1
    assert (await api.get(user, memory["id"])).json()["text"] == "ours"
    report = await imported(api, [theirs], on_conflict="update")
    assert (report["updated"], report["embedded"]) == (1, 1)
    now = (await api.get(user, memory["id"])).json()
    assert now["text"] == "theirs"
    assert now["created_at"] == memory["created_at"]
    assert now["version"] > memory["version"]
    events = (await api.client.get(f"/v1/memories/{memory['id']}/history", params={"user_id": user})).json()["events"]
    assert [event["text"] for event in events] == ["ours", "theirs"]


async def test_what_was_deleted_here_stays_deleted_unless_asked_for(api, user):
    """An import that is repeated does not bring back what a user has deleted since; `update` does."""
    memory = await api.create(user, "secret")
    lines = await exported(api, user_id=user)
    await api.delete(user, memory["id"])
    assert (await imported(api, lines, on_conflict="ignore"))["duplicate"] == 1
    assert (await imported(api, lines))["errors"] == 1
    assert (await api.get(user, memory["id"])).status_code == 404
    assert (await imported(api, lines, on_conflict="update"))["created"] == 1
    assert (await api.get(user, memory["id"])).json()["text"] == "secret"


async def test_an_import_deletes_nothing(api, user):
    """A line of a deleted memory leaves one that lives alone, and the copies of the user are told of new ones."""
    memory = await api.create(user, "alive")
    line = {
        "type": "deleted",
        "user_id": user,
        "id": memory["id"],
        "version": 3,
        "created_at": "2025-01-01T00:00:00Z",
        "deleted_at": "2025-01-02T00:00:00Z",
    }
    assert (await imported(api, [line], on_conflict="update"))["duplicate"] == 1
    assert (await api.get(user, memory["id"])).status_code == 200


async def test_an_import_is_seen_by_the_next_read(api, user):
    """A warm user, a kept answer and a kept list: all show what was taken in, in other scopes nothing changes."""
    await api.create(user, "the first")
    for _ in range(4):
        await api.search(user, query="the second")
    await api.listing(user)
    line = {"type": "memory", "user_id": user, "text": "the second"}
    assert (await imported(api, [line]))["created"] == 1
    found = await api.search(user, query="the second")
    assert found.json()["results"][0]["text"] == "the second"
    assert len((await api.listing(user)).json()["memories"]) == 2


async def test_versions_go_on_where_the_scope_already_is(api, empty, user):
    """Where the versions of the file are taken, the memories get higher ones in their order."""
    for number in range(3):
        await api.create(user, f"theirs {number}")
    lines = await exported(api, user_id=user)
    for number in range(2):
        await empty.create(user, f"ours {number}")
    assert clean(await imported(empty, lines))
    merged = [line for line in await exported(empty, user_id=user) if line["type"] == "memory"]
    assert [(line["text"], line["version"]) for line in merged] == [
        ("ours 0", 1),
        ("ours 1", 2),
        ("theirs 0", 3),
        ("theirs 1", 4),
        ("theirs 2", 5),
    ]


async def test_a_line_that_cannot_be_taken_in_does_not_stop_the_rest(api, user, empty):
    """Broken, foreign, oversized, wrong in a field: each is named by its number, all others are taken in."""
    good = {"type": "memory", "user_id": user, "text": "good"}
    lines = [
        good | {"text": "first"},
        b"{nope",
        b"\xff\xfe",
        b"",
        {"type": "photo", "from_id": str(uuid4())},
        {"text": "no type"},
        b"[1]",
        good | {"text": " "},
        good | {"importance": 2},
        good | {"embedding": base64.b64encode(b"1234").decode()},
        good | {"surprise": 1},
        good | {"metadata": [1]},
        good | {"version": 0},
        good | {"tags": ["x" * 200]},
        good | {"created_at": "2025-01-01T00:00:00"},
        {"type": "memory", "text": "whose?"},
        b'{"type":"memory","text":"' + b"x" * 1_100_000 + b'"}',
        good | {"text": "last"},
    ]
    report = await imported(empty, lines)
    wrong = [number for number in range(1, 19) if number not in {1, 4, 18}]
    assert [each["line"] for each in report["problems"]] == wrong
    assert (report["created"], report["lines"], report["complete"]) == (2, 18, None)
    paths = {each["line"]: each["problem"].get("path") for each in report["problems"]}
    assert paths[5] == "$.type"
    assert paths[9] == "$.importance"
    assert paths[16] == "$.user_id"
    assert paths[17] == "$"
    details = {each["line"]: each["problem"]["detail"] for each in report["problems"]}
    assert "takes in header, memory" in details[5]
    assert "longer than 1048576 bytes" in details[17]


async def test_it_stops_at_the_first_error_where_asked(api, user):
    """What came before is taken in, what comes after is left out and counted."""
    good = {"type": "memory", "user_id": user}
    lines = [good | {"text": "a"}, b"nope", good | {"text": "b"}, b"also nope", good | {"text": "c"}]
    report = await imported(api, lines, on_error="stop")
    assert (report["created"], report["errors"], report["skipped"], report["stopped_at"]) == (1, 1, 3, 2)
    assert [each["text"] for each in (await api.listing(user)).json()["memories"]] == ["a"]
    id_of_a = (await api.listing(user)).json()["memories"][0]["id"]
    many = [good | {"text": "other", "id": id_of_a}, *(good | {"text": f"{n}"} for n in range(1200))]
    report = await imported(api, many, on_error="stop")
    assert (report["errors"], report["stopped_at"]) == (1, 1)
    assert report["created"] + report["skipped"] == 1200
    assert report["created"] < 1000


async def test_a_truncated_file_is_noticed(api, user):
    """Without its trailer, with one that names other numbers, or with one that says that the export broke off."""
    await api.create(user, "one")
    await api.create(user, "two")
    lines = await exported(api, user_id=user)
    assert (await imported(api, lines))["complete"] is True
    assert (await imported(api, lines[:-1]))["complete"] is False
    assert (await imported(api, [*lines[:1], *lines[2:]]))["complete"] is False
    assert (await imported(api, lines[:-1], part="true"))["complete"] is None
    assert (await imported(api, lines + lines))["complete"] is True
    assert (await imported(api, lines + lines[:-1]))["complete"] is False
    report = await imported(api, [*lines[:-1], {"type": "error", "detail": "the store was away"}])
    assert report["complete"] is False
    assert "the store was away" in report["problems"][0]["problem"]["detail"]


async def test_another_format_is_not_read(api, user):
    """A header of a later format: nothing that follows is taken in."""
    header = (await exported(api, user_id=user))[0]
    good = {"type": "memory", "user_id": user, "text": "good"}
    body = b"\n".join(json.dumps(line).encode() for line in (header | {"format": 2}, good))
    report = (await api.client.post("/v1/import", content=body, headers=NDJSON)).json()
    assert (report["errors"], report["skipped"], report["stopped_at"]) == (1, 1, 1)


async def test_vectors_of_another_model_are_made_anew(api, user, empty):
    """The header says whose vectors they are: those of another model, or of another length, are not taken."""
    await api.create(user, "peanuts")
    lines = await exported(api, user_id=user)
    vector = lines[1]["embedding"]
    other = base64.b64encode(np.ones(3, dtype="<f4").tobytes()).decode()
    report = await imported(
        empty, [lines[0] | {"model": "other", "dimensions": 3}, lines[1] | {"embedding": other}, lines[2]]
    )
    assert clean(report)
    assert report["embedded"] == 1
    assert (await exported(empty, user_id=user))[1]["embedding"] == vector


async def test_vectors_come_back_to_the_bit(api, user):
    """A vector of norm 1 is stored as it is; any other is scaled first."""
    rng = np.random.default_rng(3)
    vectors = [kernels.unit_vector(rng.normal(size=256).astype("<f4").tobytes()) for _ in range(50)]
    lines = [
        {"type": "memory", "user_id": user, "text": f"{n}", "embedding": base64.b64encode(vector.tobytes()).decode()}
        for n, vector in enumerate(vectors)
    ]
    assert clean(await imported(api, lines))
    came = {line["text"]: line["embedding"] for line in await exported(api, user_id=user) if line["type"] == "memory"}
    assert came == {line["text"]: line["embedding"] for line in lines}


async def test_lines_without_an_id_are_taken_in_once(api, user):
    """The id follows from the line, so the same lines again are duplicates."""
    lines = [{"type": "memory", "user_id": user, "text": f"note {n}"} for n in range(30)]
    assert (await imported(api, lines))["created"] == 30
    assert (await imported(api, lines, on_conflict="ignore"))["duplicate"] == 30
    assert len({line["id"] for line in await exported(api, user_id=user) if line["type"] == "memory"}) == 30


async def test_what_has_expired_is_left_out(api, user):
    """On the way out and on the way in, with its history."""
    past, soon = "2020-01-01T00:00:00Z", (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    await api.create(user, "short", expires_at=soon)
    async with api.database() as connection:
        await connection.execute("UPDATE memories SET expires_at = now() - interval '1 s' WHERE text = 'short'")
    lines = await exported(api, user_id=user)
    assert [line["type"] for line in lines] == ["header", "trailer"]
    gone = {"type": "memory", "user_id": user, "id": str(uuid4()), "version": 2, "text": "gone", "expires_at": past}
    event = {
        "type": "history",
        "user_id": user,
        "id": gone["id"],
        "version": 1,
        "event": "created",
        "at": past,
        "superseded_at": past,
        "created_at": past,
        "updated_at": past,
        "text": "been",
    }
    assert (await imported(api, [gone, event]))["skipped"] == 2


async def test_history_stands_where_it_belongs(api, user):
    """A line of history without its memory, of another memory, or from its future is refused."""
    memory = await api.create(user, "one")
    await api.patch(user, memory["id"], {"text": "two"})
    _, line, event, _ = await exported(api, user_id=user)
    for wrong in (
        [event],
        [line, event | {"id": str(uuid4())}],
        [line, event | {"version": line["version"]}],
        [line, event | {"user_id": "somebody"}],
        [line, event | {"event": "deleted"}],
    ):
        report = await imported(api, wrong)
        assert report["errors"] == 1, wrong
        assert report["problems"][0]["line"] == len(wrong)


async def test_a_memory_with_more_history_than_a_step_holds(api, empty, user):
    """The steps of an import are bounded; a long history is taken in over several of them, each event once."""
    memory = await api.create(user, "0")
    _, line, _ = await exported(api, user_id=user)
    line["version"] = 2000
    moment = "2026-01-01T00:00:00Z"
    events = [
        {
            "type": "history",
            "user_id": user,
            "id": memory["id"],
            "version": version,
            "event": "created" if version == 1 else "updated",
            "at": moment,
            "superseded_at": line["created_at"],
            "created_at": moment,
            "updated_at": moment,
            "text": f"{version}",
        }
        for version in range(1, 1301)
    ]
    for _ in range(2):
        report = await imported(empty, [line, *events])
        assert clean(report)
        assert report["history"] == 1300
        lines = await exported(empty, user_id=user)
        assert [each["version"] for each in lines[1:-1]] == [2000, *range(1, 1301)]
    assert (await imported(api, [line | {"text": "other", "embedding": None}, *events], on_conflict="ignore"))[
        "skipped"
    ] == 1300


async def test_keys_reach_their_own_users_only(server, make_site, open_api, tmp_path):
    """A key of one user exports and imports that user; the namespace is for admins; nobody sees another namespace."""
    from memfast.bootstrap import with_keyring

    site = make_site(server.new_database())

    async def make(keyring):
        made = {}
        for name, namespace, user_id, role in (
            ("admin", "default", None, "admin"),
            ("ada", "default", "ada", "user"),
            ("any", "default", None, "user"),
            ("other", "other", None, "admin"),
        ):
            made[name] = (await keyring.create(namespace=namespace, user_id=user_id, role=role)).secret
        return made

    secrets = await with_keyring(site.config, make, lambda _line: None)
    async with open_api(site) as api:
        keys = {name: {"authorization": f"Bearer {secret}"} for name, secret in secrets.items()}

        async def send(key, lines, **parameters):
            body = "\n".join(json.dumps(line) for line in lines)
            return await api.client.post("/v1/import", params=parameters, content=body, headers=keys[key] | NDJSON)

        def line(user_id, text="x", **more):
            return {"type": "memory", "user_id": user_id, "text": text, "actor": "forged"} | more

        report = (await send("admin", [line("ada", "ada's"), line("bob", "bob's")])).json()
        assert report["created"] == 2
        report = (
            await send("ada", [line("ada", "mine"), line("bob", "not mine"), {"type": "memory", "text": "x"}])
        ).json()
        assert (report["created"], report["errors"]) == (1, 2)
        assert report["problems"][0]["problem"]["status"] == 403
        assert (await send("ada", [], user_id="bob")).status_code == 403
        assert (await send("ada", [{"type": "memory", "text": "y"}], user_id="ada")).json()["created"] == 1

        async def export(key, **parameters):
            return await api.client.get("/v1/export", params=parameters, headers=keys[key])

        assert (await export("ada", user_id="bob")).status_code == 403
        assert (await export("ada")).status_code == 403
        assert (await export("any")).status_code == 403
        assert '"text":"bob\'s"' not in (await export("ada", user_id="ada")).text
        texts = [json.loads(each).get("text") for each in (await export("admin")).text.splitlines()]
        assert texts == [None, "ada's", "mine", "y", "bob's", None]
        assert len((await export("other")).text.splitlines()) == 2
        assert len((await export("other", user_id="ada")).text.splitlines()) == 2
        actors = [json.loads(each).get("actor") for each in (await export("admin", user_id="ada")).text.splitlines()]
        ada_key = secrets["ada"].split("_")[1]
        assert actors == [None, "forged", ada_key, ada_key, None]  # only an admin's word is taken for who it was
        assert (await api.client.get("/v1/export")).status_code == 401
        assert (await api.client.post("/v1/import", content=b"")).status_code == 401


async def test_only_lines_are_taken(api, check_problem):
    """A body that says to be something else, and parameters that are not known, are refused before it is read."""
    response = await api.client.post("/v1/import", json={"user_id": "x"})
    check_problem(response, 415, "unsupported-media-type", says="application/x-ndjson")
    response = await api.client.post("/v1/import", params={"on_error": "panic"}, content=b"", headers=NDJSON)
    check_problem(response, 400, "invalid-request", path="on_error")
    response = await api.client.get("/v1/export", params={"user_id": ""})
    check_problem(response, 400, "invalid-request", path="user_id")


async def test_a_body_of_any_size_comes_in_any_parts(api, user):
    """Larger than any other body may be, in parts that end anywhere, even within a character."""
    lines = [{"type": "memory", "user_id": user, "text": f"{n} é" + "ü" * 3000} for n in range(2000)]
    body = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    assert len(body) > api.site.config.server.body_max_bytes
    rng = random.Random(1)

    async def parts():
        position = 0
        while position < len(body):
            size = rng.choice([1, 7, 1000, 100_000])
            yield body[position : position + size]
            position += size

    response = await api.client.post("/v1/import", content=parts(), headers=NDJSON)
    assert response.json()["created"] == 2000, response.text


async def test_so_many_at_once(server, make_site, open_api):
    """One export or import more than may be under way is refused at once and can be repeated; the others go on."""
    async with open_api(make_site(server.new_database(), server__streams_max=1)) as api:
        more, begun = asyncio.Event(), asyncio.Event()

        async def slowly():
            yield b'{"type":"memory","user_id":"ada","text":"a"}\n'
            begun.set()
            await more.wait()
            yield b'{"type":"memory","user_id":"ada","text":"b"}\n'

        first = asyncio.create_task(api.client.post("/v1/import", content=slowly(), headers=NDJSON))
        await begun.wait()
        refused = await api.client.get("/v1/export", params={"user_id": "ada"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        more.set()
        assert (await first).json()["created"] == 2
        assert len((await api.client.get("/v1/export", params={"user_id": "ada"})).text.splitlines()) == 4


async def test_searches_go_on_while_an_import_runs(api, empty):
    """Other users are served between its steps, with what is theirs."""
    await empty.create("bob", "bob's tea")
    lines = [
        json.dumps({"type": "memory", "user_id": "ada", "text": f"note {n}"}).encode() + b"\n" for n in range(3000)
    ]
    done = asyncio.Event()
    seen = []

    async def search():
        while not done.is_set():
            seen.append([hit["text"] for hit in (await empty.search("bob", query="tea")).json()["results"]])
            await asyncio.sleep(0)  # an answer that is kept is given without a turn of the loop

    async def parts():
        for start in range(0, len(lines), 100):
            yield b"".join(lines[start : start + 100])

    searching = asyncio.create_task(search())
    response = await empty.client.post("/v1/import", content=parts(), headers=NDJSON)
    done.set()
    await searching
    assert response.json()["created"] == 3000
    assert len(seen) > 10
    assert all(texts == ["bob's tea"] for texts in seen)


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_an_import_says_how_far_it_came(api, user, monkeypatch, check_problem, failing):
    """Whichever step is not written, the last one too: no success, what was written before stands, the rest goes on."""
    monkeypatch.setattr(imports, "STEP_MEMORIES", 2)
    real, steps = api.services.imports._commit, []

    async def breaking(changes):
        steps.append(len(changes))
        if len(steps) == failing:
            raise StoreUnavailable("it went away")
        return await real(changes)

    lines = [json.dumps({"type": "memory", "user_id": user, "text": f"{n}"}).encode() for n in range(1, 6)]
    monkeypatch.setattr(api.services.imports, "_commit", breaking)
    response = await api.client.post("/v1/import", content=b"\n".join(lines), headers=NDJSON)
    written = 2 * (failing - 1)
    check_problem(response, 503, "store-unavailable", says=f"everything up to line {written} is dealt with")
    texts = [memory["text"] for memory in (await api.listing(user, order="created_asc")).json()["memories"]]
    assert sorted(texts) == [f"{n}" for n in range(1, written + 1)]
    assert (await imported(api, lines[written:]))["created"] == 5 - written


async def test_a_snapshot_is_one_moment(api, user):
    """What is written while an export runs is in it as a whole or not at all."""
    await api.create_many(user, [{"text": f"{n}"} for n in range(600)])
    lines = api.services.exports.user(api.services.access.scope((await _anybody(api)), user))
    first = await anext(lines)
    memories = (await api.listing(user, limit=600, order="created_asc")).json()["memories"]
    await api.delete(user, memories[-1]["id"])
    await api.patch(user, memories[-2]["id"], {"text": "changed"})
    await api.create(user, "new")
    rest = [part async for part in lines]
    decoded = [json.loads(line) for line in b"".join([first, *rest]).splitlines()]
    assert sorted(line["text"] for line in decoded[1:-1]) == sorted(str(n) for n in range(600))
    assert decoded[-1]["memories"] == 600


async def _anybody(api):
    return await api.services.access.authenticate(None)


async def test_an_export_that_breaks_off_says_so(api, user, monkeypatch):
    """Instead of the trailer there is a line with the reason; what fails before the first line is a problem."""
    await api.create_many(user, [{"text": f"{n}"} for n in range(600)])
    real = api.services.exports._store.export

    async def breaking(scope, **arguments):
        async for page in real(scope, **arguments):
            yield page
            raise StoreUnavailable("it went away")

    monkeypatch.setattr(api.services.exports, "_store", _With(api.services.exports._store, breaking))
    lines = await exported(api, user_id=user)
    assert lines[-1] == {"type": "error", "detail": "it went away"}
    assert UUID(lines[1]["id"])


class _With:
    """A store with another way to export."""

    def __init__(self, store, export):
        self._store = store
        self.export = export

    def __getattr__(self, name):
        return getattr(self._store, name)
