"""Links in a service of two workers: what one writes, both walk over at once."""

import time
from contextlib import ExitStack

import httpx

WAIT_S = 30.0


def both_workers(service, stack):
    """A client of each worker."""
    clients, deadline = {}, time.monotonic() + WAIT_S
    while len(clients) < 2:
        assert time.monotonic() < deadline, "one worker takes every connection"
        client = stack.enter_context(httpx.Client(base_url=service.url, timeout=20, trust_env=False, verify=False))
        clients.setdefault(client.get("/v1/health").json()["pid"], client)
    return clients.values()


def test_what_one_worker_links_both_find_related(serve, data_dir):
    """Both keep what is related; after each change by one, neither shows what it kept."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    with ExitStack() as stack:
        one, other = both_workers(service, stack)
        items = {"user_id": "ada", "memories": [{"text": text} for text in ("a", "b", "c")]}
        a, b, c = [each["id"] for each in one.post("/v1/memories/batch", json=items).json()["results"]]

        def link(client, **fields):
            answer = client.post("/v1/links", json={"user_id": "ada", "from_id": a} | fields)
            assert answer.is_success, answer.text

        def shown():
            """What both workers find, asked until it is an answer that each has kept."""
            found = []
            for client in (one, other):
                answers = [client.get(f"/v1/memories/{a}/related", params={"user_id": "ada"}) for _ in range(2)]
                assert answers[1].headers["memfast-tier"] == "hot"
                assert answers[0].content == answers[1].content
                found.append([(each["id"], each["weight"]) for each in answers[0].json()["results"]])
            assert found[0] == found[1]
            return found[0]

        assert shown() == []
        link(one, to_id=b)
        assert shown() == [(b, 1.0)]
        link(other, to_id=c, weight=0.5)
        assert shown() == [(b, 1.0), (c, 0.5)]
        link(one, to_id=b, weight=0.25)
        assert shown() == [(c, 0.5), (b, 0.25)]
        named = {"user_id": "ada", "from_id": c, "to_id": a}
        assert other.delete("/v1/links", params=named).status_code == 204
        assert shown() == [(b, 0.25)]
        assert one.delete(f"/v1/memories/{b}", params={"user_id": "ada"}).status_code == 204
        assert shown() == []
        assert other.get("/v1/links", params={"user_id": "ada"}).json()["links"] == []
    assert service.stop() == 0


def test_links_come_by_themselves_and_searches_follow_them(serve, data_dir):
    """As the service is installed: what one worker took in, both find over the links that it got; not once it is gone."""
    service = serve(data_dir(), workers=2, links_similar=3, links_entities=3).wait_until_ready()
    with ExitStack() as stack:
        one, other = both_workers(service, stack)

        def create(client, text, *entities):
            body = {"user_id": "ada", "text": text, "entities": entities}
            return client.post("/v1/memories", json=body).json()["id"]

        def linked(client, count):
            """The links, once there are so many."""
            deadline = time.monotonic() + WAIT_S
            while len(found := client.get("/v1/links", params={"user_id": "ada"}).json()["links"]) != count:
                assert time.monotonic() < deadline, found
                time.sleep(0.02)
            return {(each["type"], frozenset((each["from_id"], each["to_id"]))) for each in found}

        kitchen = create(one, "The kitchen was painted yellow", "the landlord")
        same = create(one, "The kitchen was painted bright yellow")
        rent = create(other, "She raises what we pay from May on", "the landlord")
        assert linked(other, 2) == {
            ("similar_to", frozenset((kitchen, same))),
            ("shares_entity", frozenset((kitchen, rent))),
        }
        asked = {"user_id": "ada", "query": "kitchen", "mode": "lexical", "expand": {"depth": 2, "weight": 0.9}}
        for client in (one, other):
            hits = client.post("/v1/search", json=asked).json()["results"]
            assert {each["id"] for each in hits} == {kitchen, same, rent}
        assert other.delete(f"/v1/memories/{rent}", params={"user_id": "ada"}).status_code == 204
        for client in (one, other):
            hits = client.post("/v1/search", json=asked).json()["results"]
            assert {each["id"] for each in hits} == {kitchen, same}
        assert linked(one, 1) == {("similar_to", frozenset((kitchen, same)))}
    assert service.stop() == 0
