"""Every panel of the dashboards shows something of a service that is used, as a real Prometheus has scraped it."""

import importlib.util
import json
import math
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 90

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus, of Debian's package of that name"
)


@pytest.fixture(scope="module")
def dashboards():
    """The module that makes the dashboards."""
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "ops" / "dashboards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prometheus(shared, free_port, tmp_path, poll):
    """Function: the answer of a Prometheus that scrapes the shared service, with its rules, to a query."""
    config = yaml.safe_load((ROOT / "ops" / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "ops" / "prometheus" / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{shared.port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{free_port()}"
    words = [
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={url}",
    ]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(["prometheus", *words], stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://{url}", timeout=10, trust_env=False, verify=False) as client,
    ):

        def ready():
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return client.get("/-/ready").is_success
            except httpx.TransportError:
                return False

        def ask(path, **parameters):
            answer = client.get(f"/api/v1/{path}", params=parameters)
            assert answer.is_success, answer.text
            return answer.json()["data"]

        try:
            poll(ready)
            yield ask
        finally:
            process.terminate()
            process.wait(30)


def queries(dashboard):
    """Every query of a dashboard with the title of its panel, variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "30s").replace("$instance", ".+")
            assert "$" not in expression
            yield panel["title"], expression


def use(shared, round_):
    """A little of everything that people ask of a service."""
    user = f"user {round_ % 3}"
    created = shared.remember(f"The {round_}th thing to know is number {round_}.", user_id=user).json()
    shared.client.get(f"/v1/memories/{created['id']}", params={"user_id": user})
    for _ in range(2):
        shared.search(f"thing number {round_}", user_id=user)
    shared.client.get("/v1/memories", params={"user_id": user})
    assert shared.client.get("/nowhere").is_client_error


def test_every_query_of_every_panel_returns_data(shared, prometheus, dashboards, poll):
    """Also those of rates and quantiles, and no rule of an alert fails."""
    wanted = {query for uid in dashboards.DASHBOARDS for query in queries(dashboards.build(uid))}
    rounds = iter(range(10_000))

    def answered(query):
        found = prometheus("query", query=query[1])["result"]
        return any(not math.isnan(float(series["value"][1])) for series in found)

    def all_answered():
        use(shared, next(rounds))
        wanted.difference_update([query for query in wanted if answered(query)])
        return not wanted

    try:
        poll(all_answered, WAIT_S)
    except AssertionError:
        pytest.fail(f"without data: {sorted(wanted)}")
    groups = prometheus("rules")["groups"]
    assert groups
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []


def test_what_is_committed_is_what_is_made(dashboards, tmp_path):
    """`python ops/dashboards.py` changes nothing."""
    dashboards.write(tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in dashboards.FOLDER.iterdir()}
    assert {json.loads(text)["uid"] for text in made.values()} == set(dashboards.DASHBOARDS)
