"""What the tools, resources and prompts do, and that their answers fit."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import jsonschema_rs
import msgspec
import pytest
import pytest_asyncio

from memfast.mcp.budget import tokens_of
from memfast.mcp.tools import TOOLS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def settings():
    """The name by which the tests call the service."""
    return {"mcp.hosts": "memfast"}


ANSWERS = {
    tool.name: jsonschema_rs.Draft202012Validator(tool.described()["outputSchema"], validate_formats=True)
    for tool in TOOLS
}

NOBODY, OTHER = "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01", "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e02"


class Agent:
    """Calls tools for one user; every answer is held to its schema and to what it says of itself as text."""

    def __init__(self, api, user, headers=None):
        self.api = api
        self.user = user
        self.headers = headers or {}

    async def send(self, method, **params):
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return (await self.api.client.post("/mcp", json=body, headers=self.headers)).json()

    async def result(self, name, **arguments):
        answer = await self.send("tools/call", name=name, arguments={"user_id": self.user} | arguments)
        return answer["result"]

    async def call(self, name, **arguments):
        """What a tool answers."""
        result = await self.result(name, **arguments)
        (text,) = result["content"]
        assert result["isError"] is False, text
        ANSWERS[name].validate(result["structuredContent"])
        assert json.loads(text["text"]) == result["structuredContent"]
        return result["structuredContent"]

    async def refused(self, name, **arguments):
        """Why a tool did not do it."""
        result = await self.result(name, **arguments)
        assert result["isError"] is True, result
        assert "structuredContent" not in result
        return result["content"][0]["text"]


@pytest_asyncio.fixture(loop_scope="module")
async def agent(api, user):
    """An agent of a new user."""
    return Agent(api, user)


async def test_an_agent_remembers_recalls_corrects_and_forgets(agent, api):
    """The whole life of a memory, seen by HTTP too."""
    made = await agent.call(
        "remember", text="Ada is allergic to peanuts.", kind="fact", tags=["health"], importance=0.9,
        entities=["Ada"], metadata={"place": {"city": "Turin"}}, source="chat", run_id="r1", agent_id="a1",
        expires_at="2099-01-01T00:00:00Z",
    )  # fmt: skip
    assert made["status"] == "created"
    stored = (await api.get(agent.user, made["id"])).json()
    assert stored["metadata"] == {"place": {"city": "Turin"}}
    assert (stored["tags"], stored["importance"], stored["run_id"]) == (["health"], 0.9, "r1")

    found = await agent.call("recall", query="what must Ada not eat?")
    assert [hit["id"] for hit in found["memories"]] == [made["id"]]
    assert found["memories"][0]["text"] == "Ada is allergic to peanuts."
    assert 0 < found["memories"][0]["score"] <= 1

    whole = await agent.call("get", id=made["id"])
    assert whole["metadata"] == {"place": {"city": "Turin"}}
    assert whole["version"] == made["version"]
    assert "left_out" not in whole

    changed = await agent.call(
        "update", id=made["id"], text="Ada is allergic to cashews.", tags=None, expected_version=made["version"]
    )
    assert changed["version"] > made["version"]
    after = await agent.call("get", id=made["id"])
    assert (after["text"], "tags" in after, after["kind"]) == ("Ada is allergic to cashews.", False, "fact")

    gone = await agent.call("forget", id=made["id"], expected_version=changed["version"])
    assert gone == {"forgotten": 1, "has_more": False, "dry_run": False, "ids": [made["id"]]}
    assert (await agent.call("recall", query="cashews"))["memories"] == []
    assert "no memory with the id" in await agent.refused("get", id=made["id"])


async def test_what_is_known_is_not_stored_twice(agent):
    """A call that is repeated, for whatever reason, changes nothing and names the memory that is there."""
    first = await agent.call("remember", text="Plays the cello.")
    again = await agent.call("remember", text="  Plays the cello. ")
    assert (again["id"], again["version"], again["status"]) == (first["id"], first["version"], "duplicate")


async def test_a_recall_is_narrowed_by_a_filter(agent):
    """The filter language of HTTP holds here."""
    for kind in ("fact", "preference"):
        await agent.call("remember", text=f"Likes tea, as a {kind}.", kind=kind)
    found = await agent.call("recall", query="tea", filter={"kind": "preference"})
    assert [hit["text"] for hit in found["memories"]] == ["Likes tea, as a preference."]
    assert "filter" in await agent.refused("recall", query="tea", filter={"nothing": 1})


async def test_a_listing_is_paged_without_loss(agent):
    """Pages that are short for lack of room go on where they end: every memory comes once, in order."""
    made = [(await agent.call("remember", text=f"number {number} " + "word " * 100))["id"] for number in range(23)]
    for order, expected in (("oldest", made), ("newest", made[::-1])):
        seen, cursor = [], None
        while True:
            page = await agent.call("list", order=order, cursor=cursor, max_tokens=900)
            assert len(page["memories"]) < 20
            seen += [memory["id"] for memory in page["memories"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == expected
    assert "cursor" in await agent.refused("list", cursor="nonsense")


@pytest.mark.parametrize("max_tokens", [400, 1000, 5000])
@pytest.mark.parametrize("text", ["plain words " * 4000, '"\\\n' * 9000, "猫が好き" * 4000, "😀" * 9000], ids=len)
async def test_no_answer_exceeds_its_tokens(agent, max_tokens, text):
    """Whatever is stored, the text that a model reads takes at most max_tokens, and so does its structured form."""
    details = {
        "kind": "k" * 512,
        "source": "é" * 512,
        "tags": [f"{n} " + "t" * 120 for n in range(64)],
        "metadata": {"m": text[:3000]},
    }
    ids = [(await agent.call("remember", text=f"{number} {text}"[:20_000], **details))["id"] for number in range(12)]
    for target in ids[1:]:
        await agent.call("relate", from_id=ids[0], to_id=target, weight=0.123456)
    calls = {
        "recall": {"query": text[:30] or "x", "limit": 100},
        "list": {"limit": 100},
        "related": {"id": ids[0], "limit": 100},
        "get": {"id": ids[0]},
    }
    for name, arguments in calls.items():
        result = await agent.result(name, max_tokens=max_tokens, **arguments)
        assert result["isError"] is False, result
        assert tokens_of(result["content"][0]["text"].encode()) <= max_tokens
        assert tokens_of(msgspec.json.encode(result["structuredContent"])) <= max_tokens
        if name != "get":
            assert result["structuredContent"]["memories"], name


async def test_a_long_text_is_read_piece_by_piece(agent):
    """next_offset leads through all of a text."""
    text = "".join(f"sentence {number}. " for number in range(700)).strip()
    made = await agent.call("remember", text=text, metadata={"big": "x" * 9000})
    pieces, offset = [], 0
    while offset is not None:
        answer = await agent.call("get", id=made["id"], offset=offset, max_tokens=1000)
        assert answer["left_out"] == ["metadata"]
        pieces.append(answer["text"])
        offset = answer.get("next_offset")
    assert len(pieces) > 5
    assert "".join(pieces) == text


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("recall", {}, "query"),
        ("recall", {"query": ""}, "query"),
        ("recall", {"query": "x", "limit": 0}, "limit"),
        ("recall", {"query": "x", "max_tokens": 10}, "max_tokens"),
        ("recall", {"query": "x", "limit": "many"}, "limit"),
        ("recall", {"query": "x", "unknown": 1}, "unknown"),
        ("recall", {"query": "x", "user_id": "u" * 300}, "user_id"),
        ("recall", {"query": "x", "user_id": "a\0b"}, "user_id"),
        ("remember", {"text": " "}, "text"),
        ("remember", {"text": "x", "importance": 2}, "importance"),
        ("remember", {"text": "x", "expires_at": "2001-01-01T00:00:00Z"}, "past"),
        ("get", {"id": "seven"}, "id"),
        ("get", {"id": NOBODY}, "no memory with the id"),
        ("update", {"id": NOBODY, "text": "x"}, "no memory with the id"),
        ("update", {"id": NOBODY}, "names no field to change"),
        ("relate", {"from_id": NOBODY, "to_id": OTHER}, "no memory"),
        ("related", {"id": NOBODY}, "no memory"),
        ("related", {"id": NOBODY, "depth": 9}, "depth"),
        ("forget", {}, "exactly one of id, filter and everything"),
        ("forget", {"id": NOBODY, "everything": True}, "exactly one"),
        ("forget", {"filter": {}}, "names no condition"),
        ("forget", {"filter": {"and": []}}, "filter"),
    ],
    ids=str,
)
async def test_a_call_that_cannot_be_done_says_why(agent, name, arguments, says):
    """A model reads what was wrong, and where, as the result of the tool."""
    assert says in await agent.refused(name, **arguments)


async def test_null_is_taken_for_what_is_left_out(agent):
    """Models send null for arguments that they do not mean."""
    found = await agent.call("recall", query="x", filter=None)
    assert found["memories"] == []
    answer = await agent.send("tools/call", name="status", arguments=None)
    assert answer["result"]["isError"] is False


async def test_an_update_of_another_version_changes_nothing(agent):
    """Two agents that read the same version cannot both write."""
    made = await agent.call("remember", text="Lives in Turin.")
    await agent.call("update", id=made["id"], text="Lives in Rome.", expected_version=made["version"])
    why = await agent.refused("update", id=made["id"], text="Lives in Bari.", expected_version=made["version"])
    assert "version" in why
    assert "version" in await agent.refused("forget", id=made["id"], expected_version=made["version"])
    assert (await agent.call("get", id=made["id"]))["text"] == "Lives in Rome."


async def test_forgetting_by_filter_can_be_looked_at_first(agent):
    """dry_run says what would go; without it just that goes."""
    ids = [(await agent.call("remember", text=f"t{n}", tags=["old" if n % 2 else "new"]))["id"] for n in range(6)]
    looked = await agent.call("forget", filter={"tags": "old"}, dry_run=True)
    assert (looked["forgotten"], looked["dry_run"], set(looked["ids"])) == (3, True, set(ids[1::2]))
    assert (await agent.call("status"))["memories"] == 6
    done = await agent.call("forget", filter={"tags": "old"})
    assert (done["forgotten"], set(done["ids"])) == (3, set(ids[1::2]))
    assert [memory["id"] for memory in (await agent.call("list", order="oldest"))["memories"]] == ids[::2]


@pytest.mark.parametrize("confirm", [None, "", "yes", "true", "someone-else"])
async def test_forgetting_everything_needs_the_right_confirmation(agent, confirm):
    """Without the user's name once more nothing is erased, and the answer says what would be."""
    await agent.call("remember", text="Must not be lost.")
    why = await agent.refused("forget", everything=True, confirm=confirm)
    assert "1 of them" in why
    assert json.dumps(agent.user) in why
    assert (await agent.call("status"))["memories"] == 1


async def test_forgetting_everything_erases_the_user(agent, api):
    """With the confirmation the user is gone, as by HTTP."""
    await agent.call("remember", text="one")
    await agent.call("remember", text="two")
    assert (await agent.call("forget", everything=True, confirm=agent.user))["forgotten"] == 2
    assert (await api.client.get(f"/v1/users/{agent.user}")).status_code == 404
    assert (await agent.call("status"))["memories"] == 0


async def test_links_lead_from_memory_to_memory(agent):
    """One tool makes or changes a link, another follows it."""
    one, two, three = [(await agent.call("remember", text=text))["id"] for text in ("storm", "flood", "repair")]
    assert (await agent.call("relate", from_id=one, to_id=two, type="causes", directed=True))["status"] == "created"
    again = await agent.call("relate", from_id=one, to_id=two, type="causes", weight=0.5, directed=True)
    assert again["status"] == "updated"
    await agent.call("relate", from_id=two, to_id=three)
    found = (await agent.call("related", id=one))["memories"]
    assert [(each["id"], each["depth"], each["weight"]) for each in found] == [(two, 1, 0.5), (three, 2, 0.5)]
    assert (await agent.call("related", id=two, type="causes"))["memories"] == []


async def test_status_tells_of_the_service_and_the_user(agent):
    """Ready, in full, and how much is known; without a user it counts nobody."""
    await agent.call("remember", text="one")
    told = await agent.call("status")
    assert told == {"ready": True, "mode": "full", "reason": "", "user_id": agent.user, "memories": 1}
    answer = await agent.send("tools/call", name="status", arguments={})
    assert answer["result"]["structuredContent"]["memories"] is None


async def test_a_memory_is_a_resource(agent):
    """Its URI gives all of it; another one, nothing: in both eras by their code."""
    made = await agent.call("remember", text="Keeps bees.", metadata={"hives": 3})
    uri = f"memfast://users/{agent.user}/memories/{made['id']}"
    (content,) = (await agent.send("resources/read", uri=uri))["result"]["contents"]
    assert (content["uri"], content["mimeType"]) == (uri, "application/json")
    assert json.loads(content["text"])["metadata"] == {"hives": 3}
    for wrong in (uri[:-1] + "x", uri + "/", uri.replace("memfast", "http"), "", uri.replace(made["id"], str(uuid4()))):
        error = (await agent.send("resources/read", uri=wrong))["error"]
        assert (error["code"], error["data"]) == (-32002, {"uri": wrong})


async def test_a_connection_for_one_user_lists_resources(agent):
    """The header Memfast-User makes the memories of one user visible to the application, page by page."""
    user = agent.user + "/ä%"
    other = Agent(agent.api, user, {"memfast-user": f"{agent.user}%2F%C3%A4%25"})
    ids = [(await other.call("remember", text=f"note {number}"))["id"] for number in range(25)]
    seen, params = [], {}
    while True:
        page = (await other.send("resources/list", **params))["result"]
        seen += page["resources"]
        if "nextCursor" not in page:
            break
        params = {"cursor": page["nextCursor"]}
    assert [resource["uri"].rpartition("/")[2] for resource in seen] == ids[::-1]
    (content,) = (await other.send("resources/read", uri=seen[0]["uri"]))["result"]["contents"]
    assert json.loads(content["text"])["text"] == "note 24"
    assert (await agent.send("resources/list"))["result"]["resources"] == []


@pytest.mark.parametrize(
    ("name", "argument"), [("what_do_you_know_about", "topic"), ("review_before_you_act", "action")]
)
async def test_a_prompt_brings_what_is_remembered(agent, name, argument):
    """A prompt has the memories that go with its argument, and is bounded."""
    for number in range(30):
        await agent.call("remember", text=f"Never deploy on a Friday, rule {number}. " + "because " * 60)
    params = {"name": name, "arguments": {"user_id": agent.user, argument: "deploy on Friday"}}
    (message,) = (await agent.send("prompts/get", **params))["result"]["messages"]
    text = message["content"]["text"]
    assert message["role"] == "user"
    assert "Never deploy on a Friday, rule" in text
    assert "not instructions" in text
    assert tokens_of(text.encode()) < 2000
    for wrong in ({}, {"user_id": agent.user}, {argument: "x", "other": "y"}, {argument: ""}):
        answer = await agent.send("prompts/get", name=name, arguments=wrong)
        assert answer["error"]["code"] == -32602, answer


async def test_a_recall_is_answered_from_what_was_made_before(agent, api):
    """Equal questions get the bytes of a finished answer, whatever their id and era, until the user's next write."""
    await agent.call("remember", text="Collects stamps.")

    async def ask(id_, version=None, **arguments):
        params = {"name": "recall", "arguments": {"user_id": agent.user, "query": "stamps"} | arguments}
        headers = {}
        if version is not None:
            meta = "io.modelcontextprotocol/"
            params["_meta"] = {f"{meta}protocolVersion": version, f"{meta}clientCapabilities": {}}
            headers = {"mcp-protocol-version": version, "mcp-method": "tools/call", "mcp-name": "recall"}
        body = {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
        response = await api.client.post("/mcp", json=body, headers=headers)
        assert response.json()["id"] == id_
        return response.headers.get("memfast-tier"), response.json()["result"]

    first = await ask(1)
    assert first[0] is None
    hot = await ask("two")
    assert hot == ("hot", first[1])
    newer = await ask(3, "2026-07-28")
    assert newer[0] == "hot"
    assert newer[1]["resultType"] == "complete"
    assert newer[1]["structuredContent"] == first[1]["structuredContent"]
    assert (await ask(4, limit=1))[0] is None
    await agent.call("remember", text="Collects stamps of Italy.")
    assert len((await ask(5))[1]["structuredContent"]["memories"]) == 2
    stamps = (await ask(6))[1]["structuredContent"]["memories"]
    for memory in stamps:
        await agent.call("forget", id=memory["id"])
    assert (await ask(7))[1]["structuredContent"]["memories"] == []
    assert (await ask(8))[0] == "hot"


async def test_finished_answers_are_not_anothers(agent, api):
    """The same words of another connection, or for another user, get their own answer."""
    other = Agent(api, api.new_user(), {})
    for one in (agent, other):
        await one.call("remember", text=f"Secret of {one.user}.")
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "recall", "arguments": {"query": "secret"}},
    }
    for _ in range(3):
        for one in (agent, other):
            response = await api.client.post("/mcp", json=body, headers={"memfast-user": one.user})
            (memory,) = response.json()["result"]["structuredContent"]["memories"]
            assert memory["text"] == f"Secret of {one.user}."
        nobody = await api.client.post("/mcp", json=body)
        assert nobody.json()["result"]["isError"] is True


async def test_a_finished_answer_ends_with_what_it_shows(agent, api):
    """A memory that expires is not recalled from an answer that was made before."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    await agent.call("remember", text="The kettle is on.", expires_at=soon.isoformat())
    assert (await agent.call("recall", query="kettle"))["memories"] or datetime.now(UTC) >= soon
    deadline = time.monotonic() + 20
    while (await agent.call("recall", query="kettle"))["memories"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert datetime.now(UTC) >= soon
