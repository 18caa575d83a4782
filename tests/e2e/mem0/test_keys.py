"""Keys: where mem0's clients send them, how far they reach, and that nothing gets past them."""

import uuid

import httpx
import pytest

from memfast.mem0.surface import CALLS

TEXT = "The vault's number is 4711."


@pytest.fixture(scope="module")
def keyed(serve_module, command):
    """A service, and the keys of a namespace, of one of its users, of an agent, and of another namespace."""
    service = serve_module().wait_until_ready()
    settings = {"data_dir": service.data_dir}
    wanted = {
        "acme": ("--namespace", "acme", "--role", "admin"),
        "ada": ("--namespace", "acme", "--user", "ada"),
        "bot": ("--namespace", "acme", "--user", "mem0:agent:bot"),
        "other": ("--namespace", "other", "--role", "admin"),
    }
    keys = {name: command("keys", "create", *words, expect=0, **settings)[0].strip() for name, words in wanted.items()}
    return service, keys


@pytest.fixture
def stored(keyed, connect, poll):
    """Ids of memories of two users and an agent of one namespace."""
    service, keys = keyed
    poll(lambda: service.client.get("/mem0/v1/ping/").status_code == 401, 5)
    with connect(service, keys["acme"]) as client:
        owners = ({"user_id": "ada"}, {"user_id": "bob"}, {"agent_id": "bot"})
        return [client.add(TEXT, **owner, run_id="r")["results"][0]["id"] for owner in owners]


def test_a_client_without_a_good_key_is_not_made(keyed, stored, mem0):
    """The client says what is wrong with its key, as it does with mem0."""
    service, _ = keyed
    host, says = f"{service.url}/mem0", "the API key is unknown or was revoked"
    with httpx.Client() as own, pytest.raises(ValueError, match=says):
        mem0.MemoryClient(host=host, api_key="mf_x", client=own)
    with pytest.raises(ValueError, match=says):
        mem0.AsyncMemoryClient(host=host, api_key="mf_x")


def test_a_key_is_taken_where_mem0_sends_it(keyed, stored):
    """As a token, in the header of the open-source server, and as everywhere else; not by other schemes or places."""
    service, keys = keyed
    key = keys["acme"]
    good = [
        {"Authorization": f"Token {key}"},
        {"Authorization": f"token {key}"},
        {"Authorization": f"Bearer {key}"},
        {"X-API-Key": key},
    ]
    for headers in good:
        assert service.client.get("/mem0/v1/ping/", headers=headers).json()["project_id"] == "acme"
    bad = [
        {},
        {"Authorization": key},
        {"Authorization": "Token"},
        {"Authorization": f"Basic {key}"},
        {"Authorization": f"Token {key}x"},
        {"Authorization": "Token wrong", "X-API-Key": key},
        {"X-API-Key": ""},
        {"X-API-Key": f"Bearer {key}"},
        {"Mem0-User-ID": key},
    ]
    for headers in bad:
        answer = service.client.get("/mem0/v1/ping/", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json"), headers
    for headers in ({"Authorization": f"Token {key}"}, {"X-API-Key": key}):  # elsewhere nothing changes
        assert service.client.get("/v1/users", headers=headers).status_code == 401


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_no_path_is_open(keyed, stored, call):
    """Every call needs a key, before its body is read."""
    service, _ = keyed
    path = call.path.replace("{", "").replace("}", "")
    for slash in ("", "/"):
        answer = service.client.request(call.method, f"/mem0/{path}{slash}", content=b"\xff not JSON")
        assert answer.status_code == 401, answer.text


@pytest.mark.parametrize("name", ["other", "ada", "bot"])
def test_nobody_reaches_what_is_not_theirs(keyed, stored, connect, mem0, name):
    """Another namespace's key, and another user's, find, change, list and delete nothing of it by any method."""
    service, keys = keyed
    errors = mem0.exceptions
    foreign = {"other": stored, "ada": stored[1:], "bot": stored[:2]}[name]
    owners = {"user_id": "ada"}, {"user_id": "bob"}, {"agent_id": "bot"}
    own = {"other": (), "ada": owners[:1], "bot": owners[2:]}[name]
    with connect(service, keys[name]) as client:
        for target in foreign:
            for call in (client.get, client.history, client.delete, client.feedback):
                with pytest.raises(errors.MemoryNotFoundError):
                    call(target)
            with pytest.raises(errors.MemoryNotFoundError):
                client.update(target, text="stolen")
            with pytest.raises(errors.MemoryNotFoundError):
                client.batch_update([{"memory_id": target, "text": "stolen"}])
            with pytest.raises(errors.MemoryNotFoundError):
                client.batch_delete([{"memory_id": target}])
        for owner in owners:
            if owner in own:
                assert client.get_all(filters=owner)["count"] >= 1
                continue
            calls = [
                lambda owner=owner: client.search(TEXT, filters=owner)["results"],
                lambda owner=owner: client.get_all(filters=owner)["results"],
                lambda owner=owner: client.delete_all(**owner)["deleted"],
                lambda owner=owner: client.delete_all(**owner, run_id="r")["deleted"],
            ]
            for call in calls:
                if name == "other":
                    assert not call()
                    continue
                with pytest.raises(errors.AuthenticationError):
                    call()
        listed = [(each["type"], each["name"]) for each in client.users()["results"]]
        assert listed == {"other": [], "ada": [("user", "ada")], "bot": [("agent", "bot")]}[name]
        mixed = {"OR": [{"user_id": "ada"}, {"user_id": "bob"}]}
        if name == "other":
            assert client.search(TEXT, filters=mixed)["results"] == []
        else:
            with pytest.raises(errors.AuthenticationError):
                client.search(TEXT, filters=mixed)
    with connect(service, keys["acme"]) as client:
        assert [client.get(target)["memory"] for target in stored] == [TEXT] * 3


def test_a_users_key_needs_no_look_up(keyed, connect, mem0):
    """A key of one user changes its own memories by their ids, also where others have the same id."""
    service, keys = keyed
    memory_id = str(uuid.uuid4())
    strangers = {"Authorization": f"Bearer {keys['other']}"}
    body = {"user_id": "ada", "text": "of another namespace", "id": memory_id}
    assert service.client.post("/v1/memories", json=body, headers=strangers).status_code == 201
    with connect(service, keys["other"]) as client:
        assert client.get(memory_id)["memory"] == "of another namespace"
    for owner in ("ada", "bob"):
        body = {"user_id": owner, "text": TEXT, "id": memory_id}
        headers = {"Authorization": f"Bearer {keys['acme']}"}
        assert service.client.post("/v1/memories", json=body, headers=headers).status_code == 201
        if owner == "ada":  # as long as there is one in the namespace
            with connect(service, keys["acme"]) as client:
                assert client.get(memory_id)["memory"] == TEXT
    with connect(service, keys["ada"]) as client:
        assert client.update(memory_id, text="mine")["user_id"] == "ada"
    with connect(service, keys["acme"]) as client:
        assert {each["memory"] for each in client.get_all(filters={"user_id": "bob"})["results"]} == {TEXT}
        for call in (client.delete, client.feedback, lambda each: client.update(each, text="x")):
            with pytest.raises(mem0.exceptions.ValidationError, match="2 users"):
                call(memory_id)


def test_what_was_shown_is_found_again(keyed, connect, mem0):
    """Whose a memory is that was shown is verified at each read: not past a key, a delete or the end of a user."""
    service, keys = keyed
    memory_id = str(uuid.uuid4())

    def put(key, owner, text):
        body = {"user_id": owner, "text": text, "id": memory_id}
        answer = service.client.post("/v1/memories", json=body, headers={"Authorization": f"Bearer {keys[key]}"})
        assert answer.status_code == 201

    with connect(service, keys["acme"]) as client, connect(service, keys["other"]) as stranger:
        readers = (lambda each: each.get(memory_id), lambda each: each.history(memory_id))
        put("acme", "eve", "Eve's")
        show = {
            "get": lambda: client.get(memory_id),
            "search": lambda: client.search("Eve's", filters={"user_id": "eve"}),
            "get_all": lambda: client.get_all(filters={"user_id": "eve"}),
        }
        for call in show.values():
            assert "Eve's" in str(call())
            for read in readers:
                with pytest.raises(mem0.exceptions.MemoryNotFoundError):
                    read(stranger)
            with connect(service, keys["ada"]) as another:
                for read in readers:
                    with pytest.raises(mem0.exceptions.MemoryNotFoundError):
                        read(another)
        put("acme", "fay", "Fay's")
        assert client.get(memory_id)["memory"] == "Eve's"  # noted; a search through all users would refuse
        client.get_all(filters={"user_id": "fay"})
        assert client.get(memory_id)["memory"] == "Fay's"
        put("other", "fay", "a stranger's")
        assert stranger.get(memory_id)["memory"] == "a stranger's"  # now this is what is noted
        with pytest.raises(mem0.exceptions.ValidationError, match="2 users"):
            client.get(memory_id)
        client.get_all(filters={"user_id": "fay"})
        client.delete_users(user_id="fay")
        assert client.get(memory_id)["memory"] == "Eve's"
        assert {each["new_memory"] for each in client.history(memory_id)} == {"Eve's"}
        client.delete(memory_id)
        with pytest.raises(mem0.exceptions.MemoryNotFoundError):
            client.get(memory_id)
        assert stranger.get(memory_id)["memory"] == "a stranger's"


def test_names_of_agents_and_users_never_meet(keyed, connect, mem0):
    """An agent, an app, a run and a user of one name have nothing in common, whatever the name is."""
    service, keys = keyed
    with connect(service, keys["other"]) as client:
        for name in ("x", "agent:x", "mem0", "mem0:x", ":", "x:run:y"):
            kinds = ("user_id", "agent_id", "app_id", "run_id")
            for kind in kinds:
                client.add(f"of {kind}", **{kind: name})
            for kind in kinds:
                assert [each["memory"] for each in client.get_all(filters={kind: name})["results"]] == [f"of {kind}"]
        for prefix in ("mem0:agent:", "mem0:app:", "mem0:run:"):
            with pytest.raises(mem0.exceptions.ValidationError):
                client.add("x", user_id=f"{prefix}x")


def test_an_export_gives_what_the_key_reaches(keyed, stored, connect, mem0):
    """The id of an export opens nothing: another user's key gets nothing by it, another namespace's does not know it."""
    service, keys = keyed
    with connect(service, keys["acme"]) as client:
        made = {name: client.create_memory_export("{}", user_id=name)["id"] for name in ("ada", "bob")}
        assert client.get_memory_export(memory_export_id=made["bob"])["memories"]
    with connect(service, keys["ada"]) as client:
        memories = client.get_memory_export(memory_export_id=made["ada"])["memories"]
        assert {each["user_id"] for each in memories} == {"ada"}
        for call in (
            lambda: client.get_memory_export(memory_export_id=made["bob"]),
            lambda: client.get_memory_export(user_id="bob"),
            lambda: client.create_memory_export("{}", user_id="bob"),
        ):
            with pytest.raises(mem0.exceptions.AuthenticationError):
                call()
    with connect(service, keys["other"]) as client:
        with pytest.raises(mem0.exceptions.MemoryNotFoundError):
            client.get_memory_export(memory_export_id=made["ada"])
        assert TEXT not in str(client.get_memory_export(user_id="ada"))
