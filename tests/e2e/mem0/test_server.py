"""The paths of mem0's open-source server and of its earlier clients, and what every request has to pass."""

import uuid

import pytest

TEXT = "I am allergic to peanuts."
MESSAGES = [{"role": "user", "content": TEXT}]


@pytest.fixture
def http(service):
    """A plain client of the service."""
    return service.client


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_open_source_server(http, user, slash):
    """A memory is stored, listed, found, changed and deleted by the server's paths, with or without a slash."""
    owner = {"user_id": f"{user}{slash.replace('/', '-')}"}
    added = http.post(f"/mem0/memories{slash}", json={"messages": MESSAGES, "metadata": {"topic": "food"}} | owner)
    assert added.status_code == 200, added.text
    (result,) = added.json()["results"]
    assert (result["memory"], result["event"]) == (TEXT, "ADD")
    one = f"/mem0/memories/{result['id']}{slash}"
    assert http.get(one).json()["memory"] == TEXT
    assert http.get(f"/mem0/memories{slash}", params=owner | {"top_k": 5}).json()["count"] == 1
    for filters in (owner | {"topic": "food"}, owner | {"metadata": {"topic": "food"}}):
        found = http.post(f"/mem0/search{slash}", json={"query": "peanuts", "filters": filters, "top_k": 3}).json()
        assert [each["memory"] for each in found["results"]] == [TEXT]
        assert found["results"][0]["hash"]
    old = http.post(f"/mem0/search{slash}", json={"query": "peanuts"} | owner).json()
    assert len(old["results"]) == 1
    assert (
        http.post(f"/mem0/search{slash}", json={"query": "x", "filters": owner | {"topic": "no"}}).json()["results"]
        == []
    )
    assert http.put(one, json={"text": "changed"}).json()["memory"] == "changed"
    assert [each["event"] for each in http.get(f"/mem0/memories/{result['id']}/history{slash}").json()] == [
        "ADD",
        "UPDATE",
    ]
    assert owner["user_id"] in [each["id"] for each in http.get(f"/mem0/entities{slash}").json()]
    assert http.delete(one).json()["message"]
    assert http.get(one).status_code == 404
    http.post(f"/mem0/memories{slash}", json={"messages": MESSAGES} | owner)
    assert http.delete(f"/mem0/memories{slash}").status_code == 400
    assert http.delete(f"/mem0/memories{slash}", params=owner).json()["deleted"] == 1
    http.post(f"/mem0/memories{slash}", json={"messages": MESSAGES} | owner)
    assert http.delete(f"/mem0/entities/user/{owner['user_id']}{slash}").status_code == 200
    assert http.get(f"/mem0/memories{slash}", params=owner).json()["results"] == []
    assert http.get(f"/mem0/memories{slash}").status_code == 400


def test_earlier_clients(http, user):
    """The first and the second version of the paths answer as the third, and a bare list where that is asked for."""
    added = http.post("/mem0/v1/memories/", json={"messages": MESSAGES, "user_id": user, "output_format": "v1.0"})
    (result,) = added.json()
    assert result["data"]["memory"] == TEXT
    filters = {"AND": [{"user_id": user}]}
    assert http.post("/mem0/v2/memories/", json={"filters": filters, "page": 1, "page_size": 5}).json()["count"] == 1
    assert http.post("/mem0/v2/memories/search/", json={"query": "peanuts", "filters": filters}).json()["results"]
    body = {"query": "peanuts", "user_id": user, "output_format": "v1.0", "version": "v1", "async_mode": True}
    (found,) = http.post("/mem0/v1/memories/search/", json=body).json()
    assert found["id"] == result["id"]
    page = http.get("/mem0/v1/memories/", params={"user_id": user, "page_size": 1, "org_id": "memfast"}).json()
    assert page["results"][0]["id"] == result["id"]
    assert http.get("/mem0/v1/memories/", params={"user_id": user, "project_id": "other"}).status_code == 403
    second = http.post("/mem0/v1/memories/", json={"messages": MESSAGES, "user_id": user, "enable_graph": True}).json()
    assert second["warnings"][-1].startswith("enable_graph")
    following = http.get("/mem0/v1/memories/", params={"user_id": user, "page_size": 1}).json()["next"]
    assert http.get(following).json()["results"][0]["id"] == result["id"]
    posted = http.post("/mem0/v3/memories/?page_size=1", json={"filters": filters}).json()
    assert http.post(posted["next"], json={"filters": filters}).json()["previous"]


def test_an_event_is_done(http, user):
    """The event of an add can be asked for, and is finished."""
    event_id = http.post("/mem0/v3/memories/add/", json={"messages": MESSAGES, "user_id": user}).json()["event_id"]
    told = http.get(f"/mem0/v1/event/{event_id}/").json()
    assert (told["status"], told["results"][0]["memory"]) == ("SUCCEEDED", TEXT)
    assert http.get(f"/mem0/v1/event/{uuid.uuid4()}/").status_code == 404
    assert http.get("/mem0/v1/events/").status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("reset", "configure", "generate-instructions", "api-keys")),
        *(("GET", path) for path in ("configure", "configure/providers", "api-keys")),
        ("DELETE", "api-keys/x"),
    ],
)
def test_what_the_operator_decides_is_refused(http, method, path):
    """Nothing is configured, issued or reset over the network."""
    answer = http.request(method, f"/mem0/{path}")
    assert (answer.status_code, answer.json()["error"]) == (400, answer.json()["detail"])


def test_both_faces_show_the_same(http, user):
    """What one face writes the other reads, at once, also what a search has answered before."""
    search = {"query": "what may I not eat?", "filters": {"user_id": user}}
    assert http.post("/mem0/v3/memories/search/", json=search).json()["results"] == []
    created = http.post("/v1/memories", json={"user_id": user, "text": TEXT, "tags": ["health"], "run_id": "r"}).json()
    (found,) = http.post("/mem0/v3/memories/search/", json=search).json()["results"]
    assert (found["id"], found["categories"], found["run_id"]) == (created["id"], ["health"], "r")
    http.put(f"/mem0/v1/memories/{created['id']}/", json={"text": "Nuts are fine now.", "metadata": {"a": 1}})
    shown = http.get(f"/v1/memories/{created['id']}", params={"user_id": user}).json()
    assert (shown["text"], shown["metadata"], shown["tags"]) == ("Nuts are fine now.", {"a": 1}, ["health"])
    http.delete(f"/v1/memories/{created['id']}", params={"user_id": user})
    assert http.post("/mem0/v3/memories/search/", json=search).json()["results"] == []
    agent = http.post("/mem0/memories", json={"messages": MESSAGES, "agent_id": user, "app_id": "app"}).json()
    shown = http.get(f"/v1/memories/{agent['results'][0]['id']}", params={"user_id": f"mem0:agent:{user}"}).json()
    assert shown["metadata"]["mem0"] == {"app_id": "app", "role": "user"}


def test_an_import_of_mem0_keeps_its_entities(http, user):
    """What was imported from mem0 shows its app and what is immutable, as if it had been added."""
    line = {"id": str(uuid.uuid4()), "memory": TEXT, "user_id": user, "app_id": "app", "immutable": True, "hash": "x"}
    taken = http.post("/v1/import", json=line, headers={"Content-Type": "application/x-ndjson"})
    assert taken.json()["created"] == 1, taken.text
    shown = http.get(f"/mem0/v1/memories/{line['id']}/").json()
    assert (shown["app_id"], shown["immutable"], shown["metadata"]) == ("app", True, {})
    asked = {"filters": {"user_id": user, "app_id": "app"}}
    assert http.post("/mem0/v3/memories/", json=asked).json()["count"] == 1


def test_a_write_with_a_key_is_done_once(http, user):
    """A repeated add, change or delete with an Idempotency-Key is answered the same; nothing of a text is kept."""
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"messages": [*MESSAGES, {"role": "user", "content": "second"}], "user_id": user}
    first, second = (http.post("/mem0/v3/memories/add/", json=body, headers=key) for _ in range(2))
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json() == second.json()
    assert http.post("/mem0/v3/memories/", json={"filters": {"user_id": user}}).json()["count"] == 2
    other = http.post("/mem0/v3/memories/add/", json=body | {"infer": False}, headers=key)
    assert other.status_code == 422
    path = f"/mem0/v1/memories/{first.json()['results'][0]['id']}/"
    key = {"Idempotency-Key": uuid.uuid4().hex}
    changes = [http.put(path, json={"text": "changed"}, headers=key).json() for _ in range(2)]
    assert changes[0] == changes[1]
    assert len(http.get(f"{path}history/").json()) == 2
    assert http.put("/mem0/v1/batch/", json={"memories": []}, headers=key).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/mem0", 404),
        ("GET", "/mem0/", 404),
        ("GET", "/mem0/nowhere", 404),
        ("GET", "/mem0/v1//ping/", 404),
        ("GET", "/mem0/v1/memories//", 404),
        ("GET", "/mem0%2Fv1/ping/", 404),
        ("GET", "/mem0/v1/ping//", 404),
        ("GET", "/mem0/v1/memories/%ff/", 400),
        ("PATCH", "/mem0/v1/ping/", 405),
        ("GET", "/mem0/v1/ping/?x=1", 400),
        ("GET", "/mem0/v1/ping/?project_id=other", 403),
        ("DELETE", "/mem0/v2/entities/robot/x/", 404),
        ("DELETE", "/mem0/v2/entities/user/%2A/", 400),
        ("GET", "/mem0/api/v1/orgs/organizations/other/projects/default/", 404),
        ("GET", "/mem0/api/v1/orgs/organizations/memfast/projects/other/", 403),
    ],
)
def test_other_paths(http, method, path, status):
    """No path is redirected, guessed or taken for another."""
    assert http.request(method, path).status_code == status


def test_bodies_are_bounded_and_read(http, user):
    """A body has its bound, its type and its form, and what is wrong with it is said."""
    assert http.post("/mem0/memories", content=b"x" * 300_000).status_code == 413
    for body in (b"", b"{", b"[]", b'{"messages": "x"}', b'{"messages": [1], "user_id": "x"}'):
        answer = http.post("/mem0/memories", content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json"), body
        assert answer.json()["type"] == "urn:memfast:problem:invalid-request"
    assert http.post("/mem0/memories", json={}, headers={"Content-Type": "text/plain"}).status_code == 415
    late = http.get("/mem0/v1/entities/", headers={"Memfast-Timeout-Ms": "0"})
    assert late.status_code == 400
    assert late.headers["x-request-id"]
