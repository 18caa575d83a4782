"""Writes over real sockets: batches by curl, many clients at once, and a stop in the middle of them."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

CREATED, STOPPING = 201, 503
README = Path(__file__).parents[2] / "README.md"


def shell(words):
    """What a command line prints, as JSON."""
    done = subprocess.run(["sh", "-c", words], check=True, capture_output=True, text=True, timeout=20)
    return json.loads(done.stdout)


def test_the_readmes_batches_work(shared):
    """Store, change and delete by the curl commands as they stand there, through the server that is shipped."""
    paragraphs = re.findall(r"```\n(curl [^`]*/v1/memories/batch.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    post, patch, delete = [
        command.replace("http://127.0.0.1:8077", shared.url).replace('"ada"', '"curl"')
        for paragraph in paragraphs
        for command in re.split(r"\n(?=curl)", paragraph.strip())
    ]
    made = shell(post)["results"]
    assert [result["status"] for result in made] == ["created", "created"]
    ids = f"ID={made[0]['id']}; OTHER={made[1]['id']}; "
    changed = shell(ids + patch)["results"]
    assert [(result["status"], result["version"]) for result in changed] == [("updated", 3), ("updated", 4)]
    texts = {memory["text"] for memory in shared.client.get("/v1/memories?user_id=curl").json()["memories"]}
    assert len(texts) == 2
    deleted = shell(ids + delete)["results"]
    assert [result["status"] for result in deleted] == ["deleted", "deleted"]
    assert shared.client.get("/v1/memories?user_id=curl").json()["memories"] == []


def test_what_was_acknowledged_before_a_stop_is_there_after_it(serve, data_dir, poll):
    """Sixteen clients write until the service does not answer any more: all that it said it stored, it did, once."""
    folder = data_dir()
    service = serve(folder).wait_until_ready()

    def work(number):
        done = []
        with httpx.Client(base_url=service.url, timeout=20, trust_env=False, verify=False) as client:
            for row in range(100_000):
                text = f"{number}/{row}"
                try:
                    response = client.post("/v1/memories", json={"user_id": f"user {number % 4}", "text": text})
                except httpx.TransportError:
                    return done, text
                if response.status_code != CREATED:
                    assert response.status_code == STOPPING, response.text
                    return done, None
                done.append(text)
        return done, None

    with ThreadPoolExecutor(16) as threads:
        tasks = [threads.submit(work, number) for number in range(16)]
        poll(lambda: service.client.get("/v1/users/user%201").json().get("memories", 0) > 20)
        assert service.stop() == 0
        results = [task.result() for task in tasks]
    service = serve(folder).wait_until_ready()
    stored = []
    for user in range(4):
        cursor = {}
        while True:
            page = service.client.get("/v1/memories", params={"user_id": f"user {user}", "limit": 1000} | cursor).json()
            stored += [memory["text"] for memory in page["memories"]]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
    assert len(stored) == len(set(stored))
    acknowledged = {text for done, _ in results for text in done}
    in_doubt = {text for _, text in results if text is not None}
    assert acknowledged
    assert acknowledged <= set(stored) <= acknowledged | in_doubt
    assert service.stop() == 0
