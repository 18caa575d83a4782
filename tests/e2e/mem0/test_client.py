"""Every method of mem0's clients, in the words of its users."""

import uuid

import pytest

PEANUTS = "I am allergic to peanuts."
CELLO = "I play the cello on Sundays."
FIELDS = {
    *("id", "memory", "hash", "user_id", "agent_id", "app_id", "run_id", "session_id", "metadata", "categories"),
    *("immutable", "expiration_date", "created_at", "updated_at"),
}


@pytest.fixture
def errors(mem0):
    """mem0's exceptions."""
    return mem0.exceptions


@pytest.fixture
def refused(errors):
    """Function: what a call is refused with; it says why, and in which field."""

    def refused(call, kind="ValidationError", says=""):
        with pytest.raises(errors.MemoryError) as caught:
            call()
        assert type(caught.value) is getattr(errors, kind), repr(caught.value)
        assert says in caught.value.message
        assert caught.value.details["detail"] == caught.value.message  # the client has read the body as JSON
        return caught.value

    return refused


def only(answer):
    """The one result of an answer."""
    (result,) = answer["results"]
    return result


def test_a_client_is_made(client):
    """The key is checked at construction, and the namespace is the project."""
    assert (client.org_id, client.project_id, client.user_email) == ("memfast", "default", None)


def test_add_takes_what_mem0_takes(client, user, said):
    """A text, a message or a conversation is stored, each message word for word; the answer says that, and is final."""
    answer = client.add(PEANUTS, user_id=user)
    assert answer["status"] == "SUCCEEDED"
    result = only(answer)
    assert result["event"] == "ADD"
    assert result["data"] == {"memory": PEANUTS}
    assert answer["warnings"][0].startswith("infer: every message is stored word for word")
    client.add({"role": "user", "content": CELLO}, user_id=user)
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "I live in Turin.", "name": "Ada"},
        {"role": "assistant", "content": [{"type": "text", "text": "Since"}, {"type": "text", "text": "when?"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    answer = client.add(turns, user_id=user, infer=False)
    assert "warnings" not in answer
    assert said(answer) == ["I live in Turin.", "Since\nwhen?"]
    listed = client.get_all(filters={"user_id": user})
    assert sorted(said(listed)) == sorted([PEANUTS, CELLO, "I live in Turin.", "Since\nwhen?"])
    by_text = {each["memory"]: each for each in listed["results"]}
    assert by_text["I live in Turin."]["actor_id"] == "Ada"
    assert by_text["Since\nwhen?"]["role"] == "assistant"


def test_add_keeps_what_comes_with_it(client, user, mem0):
    """Entities, metadata, time and expiration come back under the names that each method has for them."""
    options = mem0.client.types.AddMemoryOptions(
        filters={"user_id": user, "agent_id": "cook"},
        metadata={"topic": "food", "deep": {"n": 1}},
        timestamp=1_750_000_000,
        expiration_date="2099-12-31",
        infer=False,
    )
    added = only(client.add(PEANUTS, options, run_id="r1", app_id="kitchen", immutable=True))
    got = client.get(added["id"])
    assert set(got) - {"role"} == FIELDS
    assert (got["user_id"], got["agent_id"], got["app_id"]) == (user, "cook", "kitchen")
    assert got["session_id"] == "r1"
    assert got["metadata"] == {"topic": "food", "deep": {"n": 1}}
    assert got["expiration_date"] == "2099-12-31"
    assert got["immutable"] is True
    assert got["created_at"].startswith("2025-06-15T15:06:40")
    found = only(client.search("peanuts", filters={"user_id": user}))
    assert found["run_id"] == "r1"
    assert 0 < found.pop("score") <= 1
    assert found == got
    assert only(client.get_all(filters={"user_id": user})) == got


def test_what_steers_an_extractor_is_named(client, user):
    """What has no effect is taken and told; what nobody knows is refused."""
    answer = client.add(PEANUTS, user_id=user, custom_instructions="short", custom_categories=[{"food": "eating"}])
    assert [each.split(":")[0] for each in answer["warnings"]] == ["infer", "custom_categories", "custom_instructions"]
    assert client.search(PEANUTS, filters={"user_id": user}, rerank=True)["warnings"] == ["rerank: has no effect here"]
    assert "warnings" not in client.search(PEANUTS, filters={"user_id": user}, keyword_search=True, rerank=False)


def test_add_refuses_what_cannot_be_kept(client, user, refused):
    """Nothing is stored of an add that cannot be stored as it is."""
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    refused(lambda: client.add(PEANUTS), says="user_id, agent_id, app_id or run_id")
    refused(lambda: client.add("  ", user_id=user), says="$.messages")
    refused(lambda: client.add(image, user_id=user), says="$.messages[0].content[0]")
    refused(lambda: client.add([{"role": "user", "content": PEANUTS}, *image], user_id=user))
    refused(lambda: client.add(PEANUTS, user_id="*"), says="*")
    refused(lambda: client.add(PEANUTS, user_id="mem0:agent:x"), says="user_id")
    refused(lambda: client.add(PEANUTS, user_id=user, metadata={"mem0": {"immutable": True}}), says="$.metadata.mem0")
    refused(lambda: client.add(PEANUTS, user_id=user, metadat={}), says="metadat")
    refused(lambda: client.add(PEANUTS, user_id=user, expiration_date="soon"), says="$.expiration_date")
    refused(lambda: client.add(PEANUTS, user_id=user, expiration_date="9999-12-31"), says="$.expiration_date")
    refused(lambda: client.add(PEANUTS, user_id=user, expiration_date="2020-01-01"), says="past")
    refused(lambda: client.add(PEANUTS, user_id=user, timestamp=1e300), says="$.timestamp")
    refused(lambda: client.add(PEANUTS, user_id=user, filters={"user_id": "other"}), says="$.filters.user_id")
    refused(lambda: client.add("x" * 300_000, user_id=user), "MemoryQuotaExceededError")
    refused(
        lambda: client.add([{"role": "user", "content": "ok"}, {"role": "user", "content": "x" * 70_000}], user_id=user)
    )
    assert client.get_all(filters={"user_id": user})["count"] == 0


def test_search_finds(client, user, said, refused):
    """By words and meaning, with a bound, a threshold, and so many fields."""
    for text in (PEANUTS, CELLO, "The kitchen is green."):
        client.add(text, user_id=user)
    mine = {"user_id": user}
    assert said(client.search("  allergic to peanuts? ", filters=mine))[0] == PEANUTS
    assert len(client.search("what is there?", filters=mine, top_k=2)["results"]) == 2
    best = client.search(PEANUTS, filters=mine)["results"][0]
    assert said(client.search(PEANUTS, filters=mine, threshold=best["score"])) == [PEANUTS]
    assert set(client.search(PEANUTS, filters=mine, top_k=1, fields=["memory"])["results"][0]) == {"id", "memory"}
    assert client.search(PEANUTS, filters={"user_id": f"{user}-other"}) == {"results": []}
    refused(lambda: client.search("x", filters=mine, top_k=0), says="$.top_k")
    refused(lambda: client.search("x", filters=mine, threshold=2), says="$.threshold")
    refused(lambda: client.search("x", filters=mine, show_expired=True), says="$.show_expired")
    refused(lambda: client.search("x"), says="$.filters")
    with pytest.raises(ValueError, match="user_id"):
        client.search("x", user_id=user)


def test_the_options_of_a_search(client, user, mem0, said):
    """Categories are tags, metadata is a condition, and both narrow."""
    first = only(client.add("red", user_id=user, metadata={"n": 1}))
    client.add("red too", user_id=user, metadata={"n": 2})
    options = mem0.client.types.SearchMemoryOptions(filters={"user_id": user}, metadata={"n": 1}, top_k=5)
    assert [each["id"] for each in client.search("red", options)["results"]] == [first["id"]]
    client.update(first["id"], categories=["colour", "bright"])
    third = only(client.add("red again", user_id=user, categories=["colour"]))
    by_colour = client.search("red", filters={"user_id": user}, categories=["colour", "shape"])
    assert {each["id"] for each in by_colour["results"]} == {first["id"], third["id"]}
    bright = client.get_all(filters={"user_id": user, "categories": {"contains": "bright"}})
    assert only(bright)["categories"] == ["colour", "bright"]
    assert said(client.get_all(filters={"user_id": user}, categories=["shape"])) == []


WORLD = [
    ("plain", {}, {}),
    ("agent", {"agent_id": "a1"}, {"n": 1}),
    ("run", {"run_id": "r1"}, {"n": 2, "word": "Turin"}),
    ("app", {"app_id": "p1"}, {"n": "2", "deep": {"x": [1, 2]}, "a.b": "dotted"}),
    ("all", {"agent_id": "a1", "run_id": "r2", "app_id": "p2"}, {"n": 3, "list": ["x"]}),
]
FILTERS = [
    ({}, "plain agent run app all"),
    ({"agent_id": "a1"}, "agent all"),
    ({"agent_id": "*"}, "agent all"),
    ({"agent_id": None}, "plain run app"),
    ({"agent_id": {"ne": "a1"}}, "plain run app"),
    ({"run_id": {"in": ["r1", "r2"]}}, "run all"),
    ({"run_id": {"nin": ["r1"]}}, "plain agent app all"),
    ({"app_id": "p1"}, "app"),
    ({"app_id": "*"}, "app all"),
    ({"NOT": [{"app_id": "*"}]}, "plain agent run"),
    ({"NOT": [{"agent_id": "a1"}, {"run_id": "r1"}]}, "plain app"),
    ({"OR": [{"run_id": "r1"}, {"app_id": "p1"}]}, "run app"),
    ({"AND": [{"agent_id": "a1"}, {"run_id": "*"}]}, "all"),
    ({"AND": [{"agent_id": "a1"}, {"NOT": {"run_id": "*"}}]}, "agent"),
    ({"metadata": {"n": 2}}, "run"),
    ({"metadata": {"n": {"gte": 2}}}, "run all"),
    ({"metadata": {"n": {"gt": 1, "lt": 3}}}, "run"),
    ({"metadata": {"n": {"in": [1, "2"]}}}, "agent app"),
    ({"metadata": {"n": {"ne": 1}}}, "plain run app all"),
    ({"metadata": {"n": "*"}}, "agent run app all"),
    ({"metadata": {"word": {"contains": "uri"}}}, "run"),
    ({"metadata": {"deep": {"x": [1, 2]}}}, "app"),
    ({"metadata": {"a.b": "dotted"}}, "app"),
    ({"metadata": {"list": {"contains": "x"}}}, "all"),
    ({"metadata": {"n": 3, "list": "*"}}, "all"),
    ({"categories": {"in": ["none"]}}, ""),
    ({"categories": None}, "plain agent run app all"),
    ({"created_at": {"gte": "2020-01-01"}}, "plain agent run app all"),
    ({"created_at": {"lte": "2020-01-01"}}, ""),
    ({"created_at": {"lt": "2020-01-01T10:00:00+02:00"}}, ""),
    ({"updated_at": {"gt": "2020-01-01"}, "timestamp": {"ne": "2020-01-01"}}, "plain agent run app all"),
]


@pytest.fixture(scope="module")
def world(service, mem0):
    """A user with memories of every kind, and others who must never be found."""
    client = mem0.MemoryClient(host=f"{service.url}/mem0", api_key="anything")
    try:
        for owner in ("the-user", "another"):
            for text, entities, metadata in WORLD:
                client.add(text if owner == "the-user" else f"not {text}", user_id=owner, metadata=metadata, **entities)
        for text, entities, metadata in WORLD[1:]:
            client.add(f"lone {text}", metadata=metadata, **entities)
    finally:
        client.client.close()
    return "the-user"


@pytest.mark.parametrize(("condition", "expected"), FILTERS, ids=str)
def test_filters(service, connect, world, said, condition, expected):
    """A filter means the same for a listing and a search, and never leaves the user."""
    with connect(service) as client:
        filters = {"AND": [{"user_id": world}, condition]}
        assert sorted(said(client.get_all(filters=filters))) == sorted(expected.split())
        assert sorted(said(client.search("a plain agent run app", filters=filters))) == sorted(expected.split())
        assert sorted(said(client.get_all(filters={"user_id": world} | condition))) == sorted(expected.split())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"agent_id": "a1"}, "lone agent,lone all"),
        ({"app_id": "p1"}, "lone app"),
        ({"run_id": "r1"}, "lone run"),
        ({"run_id": "r2"}, ""),
        ({"agent_id": "a1", "run_id": "r2"}, "lone all"),
        ({"AND": [{"agent_id": "a1"}, {"NOT": [{"user_id": "*"}]}]}, "lone agent,lone all"),
        ({"app_id": "p1", "agent_id": "*"}, ""),
        ({"OR": [{"app_id": "p1"}, {"run_id": "r1"}]}, "lone app,lone run"),
        ({"OR": [{"user_id": "the-user", "run_id": "r1"}, {"agent_id": "a1"}]}, "run,agent,all,lone agent,lone all"),
        ({"user_id": {"in": ["the-user", "another"]}, "app_id": "p1"}, "app,not app"),
        ({"AND": [{"user_id": "the-user"}, {"user_id": "another"}]}, ""),
    ],
    ids=str,
)
def test_filters_of_several_owners(service, connect, world, said, filters, expected):
    """What was stored without a user is found by its first entity alone; alternatives are read together."""
    with connect(service) as client:
        listed, found = client.get_all(filters=filters), client.search("agent all app run", filters=filters)
        assert sorted(said(listed)) == sorted(expected.split(",") if expected else [])
        assert listed["count"] == len(listed["results"])
        assert sorted(said(found)) == sorted(said(listed))
        scores = [each["score"] for each in found["results"]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"user_id": "*"},
        {"agent_id": "*"},
        {"metadata": {"n": 1}},
        {"NOT": [{"user_id": "another"}]},
        {"user_id": {"ne": "another"}},
        {"OR": [{"user_id": "the-user"}, {"metadata": {"n": 1}}]},
        {"OR": [{"user_id": "the-user"}, {"agent_id": {"ne": "a"}}]},
        {"OR": [{"user_id": "the-user"}, {"agent_id": "*"}]},
        {"AND": [{"agent_id": "a1"}, {"user_id": "*"}]},
        {"user_id": "the-user", "usr_id": "x"},
        {"user_id": "the-user", "metadata": {"n": {"icontains": "x"}}},
        {"user_id": "the-user", "metadata": {"n": {"in": "x"}}},
        {"user_id": "the-user", "metadata": {"n": {"gt": True}}},
        {"user_id": "the-user", "metadata": "x"},
        {"user_id": "the-user", "categories": {"gt": "x"}},
        {"user_id": "the-user", "created_at": {"gte": "yesterday"}},
        {"user_id": "the-user", "created_at": {"contains": "x"}},
        {"user_id": {"gt": "a"}},
        {"user_id": {"contains": "a"}},
        {"user_id": {"in": "the-user"}},
        {"user_id": ["the-user"]},
        {"user_id": {}},
        {"user_id": ""},
        {"AND": {"user_id": "the-user"}},
        {"AND": ["the-user"]},
        {"user_id": {"in": [f"u{number}" for number in range(21)]}},
    ],
    ids=str,
)
def test_filters_that_are_refused(service, connect, world, refused, filters):
    """A filter that names nobody, means more than it names, or is not understood, finds nothing but a reason."""
    with connect(service) as client:
        refused(lambda: client.search("x", filters=filters))
        refused(lambda: client.get_all(filters=filters))


def test_a_filter_is_bounded(service, connect, refused):
    """Depth and number of conditions have a bound."""
    deep = {"user_id": "x"}
    for _ in range(20):
        deep = {"AND": [deep]}
    many = {"user_id": "x", "OR": [{"metadata": {f"k{number}": 1}} for number in range(100)]}
    with connect(service) as client:
        for filters in (deep, many):
            refused(lambda filters=filters: client.get_all(filters=filters), says="$.filters")
            refused(lambda filters=filters: client.search("x", filters=filters), says="$.filters")


def test_get_all_by_pages(client, user, mem0, said, refused):
    """Pages hold everything once, newest first, with the number of all and links to the next and the previous."""
    for number in range(5):
        client.add(f"{number}", user_id=user, timestamp=1_700_000_000 + number * 86_400)
    options = mem0.client.types.GetAllMemoryOptions(filters={"user_id": user}, page=1, page_size=2)
    pages = [
        client.get_all(options),
        *(client.get_all(filters={"user_id": user}, page=n, page_size=2) for n in (2, 3, 4)),
    ]
    assert [said(page) for page in pages] == [["4", "3"], ["2", "1"], ["0"], []]
    assert {page["count"] for page in pages} == {5}
    assert [bool(page["next"]) for page in pages] == [True, True, False, False]
    assert [bool(page["previous"]) for page in pages] == [False, True, True, True]
    dated = client.get_all(filters={"user_id": user}, start_date="2023-11-15", end_date="2023-11-16")
    assert said(dated) == ["2", "1"]
    assert dated["count"] == 2
    assert said(client.get_all(filters={"OR": [{"user_id": user}, {"agent_id": user}]}, page=2, page_size=3)) == [
        "1",
        "0",
    ]
    for wrong in ({"page": 0}, {"page_size": 0}, {"page_size": 1001}, {"show_expired": True}, {"keywords": "x"}):
        refused(lambda wrong=wrong: client.get_all(filters={"user_id": user}, **wrong))


def test_a_page_is_never_stale(client, user):
    """A count and a page that were given before follow each add and delete at once."""
    ids = []
    for number in range(6):
        ids.append(only(client.add(f"{number}", user_id=user))["id"])
        assert client.get_all(filters={"user_id": user}, page_size=2)["count"] == number + 1
    for left in range(5, -1, -1):
        client.delete(ids.pop())
        page = client.get_all(filters={"user_id": user}, page_size=2)
        assert (page["count"], len(page["results"])) == (left, min(left, 2))


def test_get(client, refused):
    """A memory that is not there is mem0's own exception."""
    refused(lambda: client.get(str(uuid.uuid4())), "MemoryNotFoundError")
    refused(lambda: client.get("not-a-uuid"), says="UUID")
    refused(lambda: client.get("../ping"), says="UUID")


def test_update(client, user, mem0, refused):
    """Text, metadata and expiration change; keys of the metadata that are not named stay."""
    added = only(
        client.add(PEANUTS, user_id=user, metadata={"a": 1, "b": 1}, expiration_date="2099-01-01", app_id="app")
    )
    changed = client.update(added["id"], mem0.client.types.UpdateMemoryOptions(text=CELLO))
    assert (changed["memory"], changed["expiration_date"]) == (CELLO, "2099-01-01")
    assert client.update(added["id"], metadata={"b": 2})["metadata"] == {"a": 1, "b": 2}
    assert client.update(added["id"], expiration_date="2098-01-01")["expiration_date"] == "2098-01-01"
    cleared = client.update(added["id"], expiration_date=None)
    assert cleared == client.get(added["id"])
    assert (cleared["expiration_date"], cleared["app_id"], cleared["memory"]) == (None, "app", CELLO)
    assert only(client.search("who plays the cello?", filters={"user_id": user}))["memory"] == CELLO
    refused(lambda: client.update(added["id"], timestamp=1), says="$.timestamp")
    refused(lambda: client.update(added["id"], metadata={"mem0": {}}), says="$.metadata.mem0")
    refused(lambda: client.update(added["id"], txt="x"), says="txt")
    refused(lambda: client.update(added["id"], text=""), says="text")
    refused(lambda: client.update(str(uuid.uuid4()), text="x"), "MemoryNotFoundError")
    with pytest.raises(ValueError, match="At least one"):
        client.update(added["id"])


def test_what_is_immutable_stays(client, user, refused):
    """An immutable memory can be deleted, and not changed."""
    added = only(client.add(PEANUTS, user_id=user, immutable=True))
    refused(lambda: client.update(added["id"], text="x"), says="immutable")
    refused(lambda: client.batch_update([{"memory_id": added["id"], "text": "x"}]), says="immutable")
    assert client.get(added["id"])["memory"] == PEANUTS
    client.delete(added["id"])


def test_delete(client, user, refused):
    """A deleted memory is gone from every read; its history says so; to delete it again is no error."""
    added = only(client.add(PEANUTS, user_id=user))
    assert client.delete(added["id"]) == {"message": "Memory deleted successfully!"}
    refused(lambda: client.get(added["id"]), "MemoryNotFoundError")
    assert client.search(PEANUTS, filters={"user_id": user})["results"] == []
    assert client.delete(added["id"], delete_linked=True)["cascade_count"] == 0
    refused(lambda: client.delete(str(uuid.uuid4())), "MemoryNotFoundError")


def test_history(client, user, refused):
    """What happened, oldest first, with what was said before and after."""
    added = only(client.add(PEANUTS, user_id=user, run_id="r"))
    client.update(added["id"], text=CELLO)
    told = client.history(added["id"])
    assert [(each["event"], each["old_memory"], each["new_memory"]) for each in told] == [
        ("ADD", None, PEANUTS),
        ("UPDATE", PEANUTS, CELLO),
    ]
    assert {(each["memory_id"], each["user_id"], each["session_id"]) for each in told} == {(added["id"], user, "r")}
    client.delete(added["id"])
    last = client.history(added["id"])[-1]
    assert (last["event"], last["old_memory"], last["new_memory"], last["user_id"]) == ("DELETE", CELLO, None, user)
    refused(lambda: client.history(str(uuid.uuid4())), "MemoryNotFoundError")


def test_delete_all(client, user, mem0, refused, service):
    """What is named goes, from history too, and nothing else; without a name nothing does."""
    kept = only(client.add("kept", user_id=f"{user}-other"))
    first = only(client.add("first", user_id=user, agent_id="a", run_id="r"))
    second = only(client.add("second", user_id=user, agent_id="a"))
    refused(client.delete_all, says="user_id")
    options = mem0.client.types.DeleteAllMemoryOptions(filters={"user_id": user})
    refused(lambda: client.delete_all(options), says="filters")  # the client sends the text of a dict
    for wrong in ({"user_id": ""}, {"user_id": "*"}, {"user_id": user, "metadata": {"a": 1}}, {"metadata": {"a": 1}}):
        refused(lambda wrong=wrong: client.delete_all(**wrong))
    assert client.get_all(filters={"user_id": user})["count"] == 2
    assert client.delete_all(user_id=user, run_id="r", agent_id="a")["deleted"] == 1
    refused(lambda: client.get(first["id"]), "MemoryNotFoundError")
    assert all(each["new_memory"] is None for each in client.history(first["id"]))
    assert client.delete_all(agent_id="a")["deleted"] == 0  # of an agent without a user
    assert client.delete_all(user_id=user)["deleted"] == 1
    refused(lambda: client.history(second["id"]), "MemoryNotFoundError")
    assert client.delete_all(user_id=user)["deleted"] == 0
    assert client.get(kept["id"])["memory"] == "kept"
    assert service.client.get(f"/v1/users/{user}").status_code == 404


def test_users_and_reset(client, user):
    """Every owner is listed by kind; entities are forgotten one by one or all together."""
    for kind in ("user", "agent", "app", "run"):
        client.add(PEANUTS, **{f"{kind}_id": f"{user}/ä %2F"})
    listed = client.users()
    assert listed["count"] == len(listed["results"])
    mine = [each for each in listed["results"] if each["name"] == f"{user}/ä %2F"]
    assert sorted(each["type"] for each in mine) == ["agent", "app", "run", "user"]
    assert sum(listed[f"total_{kind}s"] for kind in ("user", "agent", "app", "run")) == listed["count"]
    for kind in ("user", "agent", "app"):
        assert client.delete_users(**{f"{kind}_id": f"{user}/ä %2F"}) == {"message": "Entity deleted successfully."}
    left = [each for each in client.users()["results"] if each["name"] == f"{user}/ä %2F"]
    assert [each["type"] for each in left] == ["run"]


def test_delete_users_of_nobody(client, refused):
    """An entity without memories is not there."""
    refused(lambda: client.delete_users(agent_id="nobody"), "MemoryNotFoundError")
    refused(lambda: client.delete_users(user_id="mem0:agent:x"))


def test_batches(client, user, refused):
    """A batch is done for several users at once; where one of it cannot be done, nothing is."""
    ids = [only(client.add(text, user_id=f"{user}-{text}", metadata={"a": 1}))["id"] for text in ("one", "two")]
    items = [{"memory_id": ids[0], "text": "uno"}, {"memory_id": ids[1], "metadata": {"b": 2}}]
    assert client.batch_update(items) == {"message": "Successfully updated 2 memories"}
    assert client.get(ids[0])["memory"] == "uno"
    assert client.get(ids[1])["metadata"] == {"a": 1, "b": 2}
    stranger = str(uuid.uuid4())
    missing = [{"memory_id": ids[0], "text": "x"}, {"memory_id": stranger, "text": "x"}]
    refused(lambda: client.batch_update(missing), "MemoryNotFoundError", says=stranger)
    refused(lambda: client.batch_update([]), says="$.memories")
    refused(lambda: client.batch_update([*items, items[0]]), says="twice")
    refused(lambda: client.batch_update([{"memory_id": ids[0], "text": "x", "user_id": "thief"}]), says="user_id")
    refused(lambda: client.batch_delete([{"memory_id": ids[0]}, {"memory_id": stranger}]), "MemoryNotFoundError")
    assert client.get(ids[0])["memory"] == "uno"
    assert client.batch_delete([{"memory_id": each} for each in ids]) == {"message": "Successfully deleted 2 memories"}
    for each in ids:
        refused(lambda each=each: client.get(each), "MemoryNotFoundError")


def test_feedback(client, user, refused):
    """What a user thinks of a memory is kept with it, and leaves the rest alone."""
    added = only(client.add(PEANUTS, user_id=user, metadata={"a": 1}, app_id="app"))
    said = {"id": added["id"], "feedback": "NEGATIVE", "feedback_reason": "wrong"}
    assert client.feedback(added["id"], "negative", "wrong") == said
    got = client.get(added["id"])
    assert (got["feedback"], got["feedback_reason"], got["metadata"], got["app_id"]) == (
        "NEGATIVE",
        "wrong",
        {"a": 1},
        "app",
    )
    client.feedback(added["id"])
    assert "feedback" not in client.get(added["id"])
    refused(lambda: client.feedback(str(uuid.uuid4()), "positive"), "MemoryNotFoundError")


REFUSALS = {
    "get_summary": (lambda client: client.get_summary({"user_id": "u"}), "a summary needs"),
    "generate_profile": (lambda client: client.generate_profile("u"), "profiles are not enabled"),
    "update_profile_settings": (
        lambda client: client.update_profile_settings(enabled=True),
        "profiles are not enabled",
    ),
    "sample_profiles": (lambda client: client.sample_profiles(3), "profiles are not enabled"),
    "get_profile_job": (lambda client: client.get_profile_job("x"), "no jobs"),
    "update_project": (lambda client: client.update_project(custom_instructions="x"), "no settings"),
    "get_webhooks": (lambda client: client.get_webhooks("default"), "no webhooks"),
    "create_webhook": (lambda client: client.create_webhook("http://127.0.0.1", "x", "default", ["x"]), "no webhooks"),
    "update_webhook": (lambda client: client.update_webhook(1, name="x"), "no webhooks"),
    "delete_webhook": (lambda client: client.delete_webhook(1), "no webhooks"),
    "project.create": (lambda client: client.project.create("x"), "namespaces of API keys"),
    "project.update": (lambda client: client.project.update(custom_instructions="x"), "no settings"),
    "project.delete": (lambda client: client.project.delete(), "namespaces of API keys"),
    "project.get_members": (lambda client: client.project.get_members(), "namespaces of API keys"),
    "project.add_member": (lambda client: client.project.add_member("a@b.c"), "namespaces of API keys"),
    "project.update_member": (lambda client: client.project.update_member("a@b.c", "OWNER"), "namespaces of API keys"),
    "project.remove_member": (lambda client: client.project.remove_member("a@b.c"), "namespaces of API keys"),
}


@pytest.mark.parametrize("method", REFUSALS)
def test_what_there_is_not_is_refused_with_its_reason(client, refused, method):
    """What needs a language model, or is the platform's business, says so as an exception of mem0's own."""
    call, reason = REFUSALS[method]
    refused(lambda: call(client), says=reason)


def test_projects_and_profiles(client):
    """The namespace is the project, without settings; nobody has a profile."""
    assert client.project.get()["id"] == "default"
    assert client.get_project(["custom_instructions"]) == {"custom_instructions": None}
    profile = client.get_profile("an ö/user")
    assert (profile["status"], profile["entity_id"], profile["profile"]) == ("not_enabled", "an ö/user", None)
    assert client.get_profile_settings()["enabled"] is False


def test_one_memory_has_one_owner(client, service, user, refused):
    """Where several users have a memory of one id, no call by the id alone touches any of them."""
    memory_id = str(uuid.uuid4())
    for owner in (user, f"{user}-other"):
        body = {"user_id": owner, "text": "copied", "id": memory_id}
        assert service.client.post("/v1/memories", json=body).status_code == 201
    for call in (client.get, client.delete, client.history, lambda each: client.update(each, text="x")):
        refused(lambda call=call: call(memory_id), says="2 users")
    service.client.delete(f"/v1/memories/{memory_id}", params={"user_id": user})
    assert client.get(memory_id)["user_id"] == f"{user}-other"


def test_reset(service, connect, user, errors):
    """Everything that there is goes with a reset, and a second one has nothing to do."""
    with connect(service) as client:
        client.add(PEANUTS, user_id=user)
        client.add(PEANUTS, agent_id=user)
        client.reset()
        assert client.users()["results"] == []
        with pytest.raises(ValueError, match="No entities"):
            client.reset()
