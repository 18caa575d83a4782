"""Every face of the service says the same: random operations through each agree with a model, and with each other.

A face is another way to the same memories. A new one is a class with the methods of `Face` and an entry in `FACES`.
"""

import importlib
import itertools
from typing import Protocol
from uuid import UUID

import httpx
import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from memfast import Client, errors

EXAMPLES, STEPS = 12, 15


class Face(Protocol):
    """What every face can do for a user. A memory is (text, sorted tags); one that is not there is None or False."""

    def add(self, user: str, text: str, tags: list[str]) -> str:
        """Store a memory; its id."""

    def update(self, user: str, memory: str, text: str) -> bool:
        """Change its text; whether it was there."""

    def delete(self, user: str, memory: str) -> None:
        """Delete it, now or before."""

    def get(self, user: str, memory: str) -> tuple[str, list[str]] | None:
        """What it says."""

    def list(self, user: str) -> dict[str, tuple[str, list[str]]]:
        """All of them by id."""

    def search(self, user: str, query: str) -> set[str]:
        """The ids of those that have a word of the query."""

    def close(self) -> None:
        """Leave nothing open."""


class OverHttp:
    """The HTTP API, in JSON."""

    def __init__(self, url):
        self._client = httpx.Client(base_url=url, timeout=20, trust_env=False, verify=False)

    def _ask(self, method, path, expect=(200, 201, 204), **more):
        answer = self._client.request(method, path, **more)
        assert answer.status_code in {*expect, 404}, answer.text
        return None if answer.status_code == 404 else answer

    def add(self, user, text, tags):
        return self._ask("POST", "/v1/memories", json={"user_id": user, "text": text, "tags": tags}).json()["id"]

    def update(self, user, memory, text):
        path, which = f"/v1/memories/{memory}", {"user_id": user}
        return self._ask("PATCH", path, params=which, json={"text": text}) is not None

    def delete(self, user, memory):
        self._ask("DELETE", f"/v1/memories/{memory}", params={"user_id": user})

    def get(self, user, memory):
        answer = self._ask("GET", f"/v1/memories/{memory}", params={"user_id": user})
        return None if answer is None else (answer.json()["text"], sorted(answer.json()["tags"]))

    def list(self, user):
        answer = self._ask("GET", "/v1/memories", params={"user_id": user, "limit": 1000}).json()
        return {each["id"]: (each["text"], sorted(each["tags"])) for each in answer["memories"]}

    def search(self, user, query):
        asked = {"user_id": user, "query": query, "mode": "lexical", "limit": 1000}
        return {each["id"] for each in self._ask("POST", "/v1/search", json=asked).json()["results"] if each["score"]}

    def close(self):
        self._client.close()


class OverClient:
    """The Python client, in msgpack."""

    def __init__(self, url):
        self._client = Client(url)

    def add(self, user, text, tags):
        return str(self._client.add(user, text, tags=tags).id)

    def update(self, user, memory, text):
        try:
            return self._client.update(user, memory, text=text).text == text
        except errors.NotFound:
            return False

    def delete(self, user, memory):
        self._client.delete(user, memory)

    def get(self, user, memory):
        try:
            found = self._client.get(user, memory)
        except errors.NotFound:
            return None
        return found.text, sorted(found.tags)

    def list(self, user):
        return {str(each.id): (each.text, sorted(each.tags)) for each in self._client.list(user, page_items=3)}

    def search(self, user, query):
        return {str(hit.id) for hit in self._client.search(user, query, mode="lexical", limit=1000) if hit.score}

    def close(self):
        self._client.close()


class OverMem0:
    """mem0's client, by pages of three. Its searches go by meaning too: of what they find, this is what has the words."""

    def __init__(self, url):
        self._mem0 = importlib.import_module("mem0")
        self._client = self._mem0.MemoryClient(host=f"{url}/mem0", api_key="anything")

    def _asked(self, call):
        try:
            return call()
        except self._mem0.exceptions.MemoryNotFoundError:
            return None

    def add(self, user, text, tags):
        return self._client.add(text, user_id=user, categories=tags, infer=False)["results"][0]["id"]

    def update(self, user, memory, text):
        return self._asked(lambda: self._client.update(memory, text=text)) is not None

    def delete(self, user, memory):
        self._asked(lambda: self._client.delete(memory))

    def get(self, user, memory):
        found = self._asked(lambda: self._client.get(memory))
        return None if found is None or found["user_id"] != user else (found["memory"], sorted(found["categories"]))

    def list(self, user):
        found, page, more = {}, 0, True
        while more:
            page += 1
            answer = self._client.get_all(filters={"user_id": user}, page=page, page_size=3)
            found |= {each["id"]: (each["memory"], sorted(each["categories"])) for each in answer["results"]}
            more = answer["next"]
        assert len(found) == answer["count"]
        return found

    def search(self, user, query):
        found = self._client.search(query, filters={"user_id": user}, top_k=1000)["results"]
        return {each["id"] for each in found if query in {*each["memory"].split(), *each["categories"]}}

    def close(self):
        self._client.client.close()


META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


class OverMcp:
    """MCP, by pages of three. Its searches go by meaning too: of what they find, this is what has the words."""

    def __init__(self, url):
        headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False, verify=False)
        self._numbers = itertools.count(1)

    def _call(self, tool, user, **arguments):
        params = {"name": tool, "arguments": {"user_id": user} | arguments, "_meta": META}
        message = {"jsonrpc": "2.0", "id": next(self._numbers), "method": "tools/call", "params": params}
        answer = self._client.post("/mcp", json=message, headers={"Mcp-Name": tool})
        assert answer.status_code == 200, answer.text
        result = answer.json()["result"]
        if result["isError"]:
            assert "no memory with the id" in result["content"][0]["text"], result
            return None
        return result["structuredContent"]

    def add(self, user, text, tags):
        # The same text is not stored twice, which the other faces do: it gets to be the same afterwards.
        made = self._call("remember", user, text=f"{text} {next(self._numbers)}", tags=tags)
        assert made["status"] == "created"
        assert self.update(user, made["id"], text)
        return made["id"]

    def update(self, user, memory, text):
        return self._call("update", user, id=memory, text=text) is not None

    def delete(self, user, memory):
        self._call("forget", user, id=memory)

    def get(self, user, memory):
        found = self._call("get", user, id=memory)
        return None if found is None else (found["text"], sorted(found.get("tags", [])))

    def list(self, user):
        found, cursor = {}, None
        while True:
            page = self._call("list", user, limit=3, cursor=cursor)
            found |= {each["id"]: self.get(user, each["id"]) for each in page["memories"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def search(self, user, query):
        hits = self._call("recall", user, query=query, limit=100, max_tokens=100_000)["memories"]
        said = {hit["id"]: self.get(user, hit["id"]) for hit in hits}
        return {memory for memory, (text, tags) in said.items() if query in {*text.split(), *tags}}

    def close(self):
        self._client.close()


FACES = {"http": OverHttp, "client": OverClient, "mem0": OverMem0, "mcp": OverMcp}

USERS = strategies.sampled_from(["ada", "bob/é ?", "100%"])
WORDS = strategies.sampled_from(["pump", "valve", "gasket", "flange", "東京", "naïve"])
TEXTS = strategies.lists(WORDS, min_size=1, max_size=4).map(" ".join)
NAMES = strategies.sampled_from(sorted(FACES))


def machine(service, faces):
    """A state machine whose users are new in each run."""
    runs = iter(range(10_000))

    class Machine(RuleBasedStateMachine):
        """Random operations, each through a face of its own choice; `model` is what must be there."""

        memories = Bundle("memories")

        @initialize()
        def begin(self):
            self.run = next(runs)
            self.model = {}

        def user(self, name):
            return f"{name} {self.run}"

        @rule(
            target=memories, face=NAMES, name=USERS, text=TEXTS, tags=strategies.lists(WORDS, unique=True, max_size=2)
        )
        def add(self, face, name, text, tags):
            memory = faces[face].add(self.user(name), text, tags)
            assert UUID(memory)
            assert memory not in {known for _, known in self.model}
            self.model[name, memory] = (text, sorted(tags))
            return name, memory

        @rule(face=NAMES, which=memories, text=TEXTS)
        def update(self, face, which, text):
            there = faces[face].update(self.user(which[0]), which[1], text)
            assert there == (which in self.model)
            if there:
                self.model[which] = (text, self.model[which][1])

        @rule(face=NAMES, which=consumes(memories), target=memories)
        def delete(self, face, which):
            faces[face].delete(self.user(which[0]), which[1])
            self.model.pop(which, None)
            return which

        @rule(face=NAMES, which=memories, name=USERS)
        def get(self, face, which, name):
            found = faces[face].get(self.user(name), which[1])
            assert found == (self.model.get(which) if name == which[0] else None)

        @rule(face=NAMES, name=USERS, word=WORDS)
        def search(self, face, name, word):
            found = faces[face].search(self.user(name), word)
            assert found == {
                memory
                for (owner, memory), (text, tags) in self.model.items()
                if owner == name and word in {*text.split(), *tags}
            }

        @invariant()
        def every_face_lists_what_is_there(self):
            for name in {name for name, _ in getattr(self, "model", {})}:
                there = {memory: said for (owner, memory), said in self.model.items() if owner == name}
                assert all(face.list(self.user(name)) == there for face in faces.values())

    return Machine


@pytest.mark.usefixtures("mem0")
@pytest.mark.parametrize("workers", [1, 2])
def test_all_faces_agree_with_a_model(serve, data_dir, workers):
    """After each step every face lists what the model has; nobody sees what is another user's."""
    service = serve(data_dir(), workers=workers).wait_until_ready()
    faces = {name: kind(service.url) for name, kind in FACES.items()}
    try:
        run_state_machine_as_test(
            machine(service, faces),
            settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, database=None),
        )
    finally:
        for face in faces.values():
            face.close()
