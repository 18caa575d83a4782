"""Exports by mem0's own clients."""

import json

import pytest

SCHEMA = {
    "$defs": {"Fact": {"properties": {"memory": {"type": "string"}, "run_id": {"type": "string"}}}},
    "properties": {
        "full_name": {"type": "string"},
        "hobbies": {"type": "array", "items": {"properties": {"memory": {}, "since": {}}}},
        "facts": {"type": "array", "items": {"$ref": "#/$defs/Fact"}},
    },
}


@pytest.mark.parametrize("form", [lambda schema: schema, json.dumps], ids=["object", "text"])
def test_a_schema_is_filled_as_far_as_can_be(client, user, form):
    """A list of fields of memories has all that are selected, now; what needs a model is named and left out."""
    for number in range(2):
        client.add(f"{number}", user_id=user, run_id="r", timestamp=1_700_000_000 + number)
    client.add("other run", user_id=user)
    client.add("other user", user_id=f"{user}-other", run_id="r")
    made = client.create_memory_export(schema=form(SCHEMA), user_id=user, filters={"run_id": "r"})
    assert (made["status"], made["count"]) == ("SUCCEEDED", 2)
    assert made["warnings"] == ["schema: left out, since they need a language model: full_name, hobbies"]
    got = client.get_memory_export(memory_export_id=made["id"])
    assert got == {"facts": [{"memory": "1", "run_id": "r"}, {"memory": "0", "run_id": "r"}]}
    client.delete_all(user_id=user)
    assert client.get_memory_export(memory_export_id=made["id"]) == {"facts": []}


def test_what_no_schema_fits_is_given_as_it_is(client, user):
    """Without a list for them, and without an id, memories are as a listing shows them."""
    client.add("I play the cello.", user_id=user)
    listed = client.get_all(filters={"user_id": user})["results"]
    for schema in ("class Person(BaseModel): ...", {}, '{"properties": 1}', {"properties": {"x": {"items": []}}}):
        made = client.create_memory_export(schema, user_id=user, export_instructions="short")
        assert [each.split(":")[0] for each in made["warnings"][-2:]] == ["schema", "export_instructions"]
        assert client.get_memory_export(memory_export_id=made["id"]) == {"memories": listed}
    assert client.get_memory_export(user_id=user) == {"memories": listed}
    assert client.get_memory_export(filters={"user_id": user}) == {"memories": listed}
    both = {"OR": [{"user_id": user}, {"agent_id": user}]}
    client.add("It is in tune.", agent_id=user)
    assert len(client.get_memory_export(filters=both)["memories"]) == 2


def test_exports_that_are_refused(client, user, mem0):
    """Of nobody, of everybody, by an id that was not made here, or with filters beside it."""
    refused = mem0.exceptions
    for asked in ({}, {"filters": {"user_id": "*"}}, {"user_id": user, "usr": "x"}, {"user_id": user, "project_id": 1}):
        for call in (client.get_memory_export, lambda **each: client.create_memory_export("{}", **each)):
            with pytest.raises(refused.ValidationError):
                call(**asked)
    made = client.create_memory_export("{}", user_id=user)["id"]
    for wrong in ("", "x", "ä", made[:-1], "A" + made, "A" * len(made)):
        with pytest.raises(refused.MemoryNotFoundError):
            client.get_memory_export(memory_export_id=wrong)
    with pytest.raises(refused.ValidationError, match="stands alone"):
        client.get_memory_export(memory_export_id=made, user_id=user)


def test_an_export_is_bounded(service, connect, user, mem0):
    """As many memories as a page has are exported; of more, none, before they fill an answer."""
    with connect(service) as client:
        for _ in range(10):
            client.add([{"role": "user", "content": f"{number}"} for number in range(100)], user_id=user)
        made = client.create_memory_export("{}", user_id=user)
        assert len(client.get_memory_export(memory_export_id=made["id"])["memories"]) == 1000
        client.add("one more", user_id=user)
        for call in (
            lambda: client.create_memory_export("{}", user_id=user),
            lambda: client.get_memory_export(memory_export_id=made["id"]),
        ):
            with pytest.raises(mem0.exceptions.ValidationError, match="1001 memories"):
                call()
