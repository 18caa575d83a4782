"""Two real workers: their counts are one, outlive them, and are shown by the command."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

REQUESTS = "memfast_request_duration_seconds_count"


@pytest.fixture
def pair(serve, base):
    """A service of two workers."""
    return serve(base / "data", workers=2, log_format="json", log_slow_search_ms=0).wait_until_ready()


def scrape(service):
    """Counters and counts of histograms by name and labels, over a new connection."""
    with httpx.Client(base_url=service.url, timeout=10, trust_env=False, verify=False) as client:
        text = client.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
        if family.type in {"counter", "histogram"} or family.name == "memfast_workers"
    }


def searches(counts):
    """How many searches were answered."""
    labels = {("route", "/v1/search"), ("status", "2xx")}
    return sum(value for (name, *own), value in counts.items() if name == REQUESTS and labels <= set(own))


def assert_none_went_back(before, after):
    """Every series is there still, and no lower."""
    gauge = "memfast_workers"
    lower = [key for key, value in before.items() if key[0] != gauge and after.get(key, -1) < value]
    assert not lower


def test_no_counter_goes_back(pair, poll):
    """A worker is killed three times while both count: what was counted stays, and its successor counts on."""
    poll(lambda: scrape(pair).get(("memfast_workers",)) == 2)
    pair.remember("the kitchen is blue")
    asked, last = 0, scrape(pair)
    for _ in range(3):
        for _ in range(20):
            with httpx.Client(base_url=pair.url, timeout=10, trust_env=False, verify=False) as client:
                assert (
                    client.post("/v1/search", json={"user_id": "ada", "query": f"kitchen {asked}"}).status_code == 200
                )
            asked += 1
        poll(lambda asked=asked: searches(scrape(pair)) == asked)
        now = scrape(pair)
        assert_none_went_back(last, now)
        last = now
        victim = pair.workers()[0]
        os.kill(victim, signal.SIGKILL)
        poll(lambda victim=victim: victim not in pair.workers() and len(pair.workers()) == 2)
        poll(pair.ready)
        assert_none_went_back(last, scrape(pair))
        poll(lambda: scrape(pair).get(("memfast_workers",)) == 2)
    assert searches(scrape(pair)) == asked
    slow = [json.loads(line) for line in pair.output.splitlines() if '"memfast.slow"' in line]
    told = [line for line in slow if line["operation"] == "POST /v1/search"]
    assert len(told) == asked, "each of them is slow where 0 ms are"
    assert all(line["request_id"] and line["scope"] and line["tier"] in {"hot", "warm", "cold"} for line in told)


def test_the_command_shows_all_workers(pair, poll):
    """As JSON in a pipe; what is not there says so."""
    pair.remember("the kitchen is blue")
    poll(lambda: scrape(pair).get(("memfast_workers",)) == 2)
    for number in range(10):
        with httpx.Client(base_url=pair.url, timeout=10, trust_env=False, verify=False) as client:
            client.post("/v1/search", json={"user_id": "ada", "query": f"kitchen {number}"})
    words = [sys.executable, "-m", "memfast", "stats", "--minutes", "5", "--url", pair.url]
    shown = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    answer = json.loads(shown.stdout)
    assert answer["process"]["workers"] == 2
    operations = {each["route"]: each for each in answer["windows"][1]["operations"]}
    assert operations["/v1/search"]["requests"] == 10
    words[-1] = "http://127.0.0.1:9"
    gone = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert gone.returncode == 1
    assert "no service answers at http://127.0.0.1:9" in gone.stderr
