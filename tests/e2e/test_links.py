"""Links in a service of two workers: what one writes, both walk over at once."""

import time
from contextlib import ExitStack

import httpx

WAIT_S = 30.0


def test_what_one_worker_links_both_find_related(serve, data_dir):
    """Both keep what is related; after each change by one, neither shows what it kept."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    with ExitStack() as stack:
        clients, deadline = {}, time.monotonic() + WAIT_S
        while len(clients) < 2:
            assert time.monotonic() < deadline, "one worker takes every connection"
            client = stack.enter_context(httpx.Client(base_url=service.url, timeout=20, trust_env=False))
            clients.setdefault(client.get("/v1/health").json()["pid"], client)
        one, other = clients.values()
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
