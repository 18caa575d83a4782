"""The compose file says what the service understands."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from memfast.cli.doctor import REDIS_BYTES
from memfast.cli.main import build_parser
from memfast.config import load
from memfast.http.app import ROUTES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["memfast"]


def test_every_variable_is_a_setting():
    """The environment of the service loads, value by value."""
    config = load({name: str(value) for name, value in SERVICE["environment"].items()}).config
    assert config.postgres.dsn.startswith("postgresql://")


def test_port_and_data_directory_agree():
    """The published port is the one served, and the volume is mounted where the data goes."""
    environment = SERVICE["environment"]
    (published,) = SERVICE["ports"]
    assert published.rpartition(":")[2] == environment["MEMFAST_PORT"]
    assert environment["MEMFAST_DATA_DIR"] in {volume.partition(":")[2] for volume in SERVICE["volumes"]}


def test_health_path_is_a_route():
    """The health check asks a route that exists, without a key."""
    probe = " ".join(SERVICE["healthcheck"]["test"])
    assert any(route.path in probe and route.public for route in ROUTES if route.path.endswith("ready"))


def test_grace_outlasts_the_stop():
    """The engine waits longer for a stop than the service may take."""
    assert int(SERVICE["stop_grace_period"].rstrip("s")) > load({}).config.server.stop_timeout_s


def test_redis_is_bounded_as_it_should_be():
    """As `doctor` wants it, without a file on disk; the service is told the name under which it is found."""
    redis = COMPOSE["services"]["redis"]
    words = redis["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options.pop("--maxmemory") == f"{REDIS_BYTES // 1024**3}gb"
    assert options == {"--maxmemory-policy": "allkeys-lru", "--save": "", "--appendonly": "no"}
    assert urlsplit(SERVICE["environment"]["MEMFAST_REDIS_URL"]).hostname in COMPOSE["services"]
    assert SERVICE["depends_on"]["redis"]["condition"] == "service_started", "the service starts without it"


def test_neo4j_is_the_one_that_is_tested():
    """Its version, with APOC; the password is the same on both sides, and its data outlives it."""
    neo4j = COMPOSE["services"]["neo4j"]
    version = re.search(r'^VERSION = "(.+)"$', (ROOT / "bench/harness/neo4j_server.py").read_text(), re.MULTILINE)[1]
    assert neo4j["image"] == f"neo4j:{version}-community"
    assert "apoc" in neo4j["environment"]["NEO4J_PLUGINS"]
    assert neo4j["environment"]["NEO4J_AUTH"] == "neo4j/" + SERVICE["environment"]["MEMFAST_NEO4J_PASSWORD"]
    assert urlsplit(SERVICE["environment"]["MEMFAST_NEO4J_URI"]).hostname in COMPOSE["services"]
    assert SERVICE["depends_on"]["neo4j"]["condition"] == "service_started", "the service starts without it"
    assert {volume.partition(":")[0] for volume in neo4j["volumes"]} <= set(COMPOSE["volumes"])


def test_the_image_has_the_drivers():
    """What the environment asks for is installed."""
    extras = re.search(r"/source\[([\w,]+)\]", (ROOT / "Dockerfile").read_text())[1].split(",")
    assert {"redis", "neo4j"} <= set(extras)


def test_commands_parse():
    """Every command line in the file is one of ours."""
    for service in COMPOSE["services"].values():
        command = service.get("command", [])
        if command[:1] == ["memfast"]:
            build_parser().parse_args(command[1:])
    for line in COMPOSE["services"]["key"]["command"][2].replace("(", "").replace(")", "").split("&&"):
        for part in line.replace("|| ", "| ").split("|"):
            words = part.split()
            if words[0] == "memfast":
                build_parser().parse_args(words[1:])


OPS = ROOT / "ops"


def test_prometheus_asks_the_service():
    """Its only target is the service and its port, its rules lie beside it, and no key is asked for."""
    config = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in COMPOSE["services"]
    assert port == SERVICE["environment"]["MEMFAST_PORT"]
    assert any(route.path == job["metrics_path"] for route in ROUTES)
    assert all((OPS / "prometheus" / name).exists() for name in config["rule_files"])
    assert load({name: str(value) for name, value in SERVICE["environment"].items()}).config.metrics.public
    assert job["job_name"] == "memfast", "the alert of its absence names it"


def test_grafana_finds_prometheus_and_the_dashboards():
    """Its data source is the service of that name and port, and the dashboards are mounted where it looks."""
    provisioning = OPS / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    url = urlsplit(source["url"])
    assert url.hostname in COMPOSE["services"]
    assert any(port.endswith(f":{url.port}") for port in COMPOSE["services"][url.hostname]["ports"])
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "memfast.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert provider["options"]["path"] in mounts.values()
    assert mounts["./ops/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_every_mount_is_there():
    """What is mounted from this folder exists, what is a volume is declared."""
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], name
