"""The official conformance suite: every check that can apply to a memory passes."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

BASELINE = tomllib.loads(Path(__file__).with_name("baseline.toml").read_text())
RUN_S = 150
PASSED = {"2026-07-28": 90, "2025-11-25": 35}
"""Checks that pass at least: a suite that does not find the service passes none."""


@pytest.fixture(scope="module")
def service(serve_module):
    """A running service."""
    return serve_module().wait_until_ready()


@pytest.mark.parametrize("revision", PASSED)
def test_the_service_conforms(service, conformance, revision, tmp_path):
    """Just those checks fail that baseline.toml names, each for a reason that stands there."""
    words = [*conformance, "server", "--url", f"{service.url}/mcp", "--requirements", revision, "-o", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S)
    checks = [check for file in tmp_path.glob("*/checks.json") for check in json.loads(file.read_text())]
    failed = {check["id"]: check.get("errorMessage") for check in checks if check["status"] == "FAILURE"}
    passed = sum(check["status"] == "SUCCESS" for check in checks)
    assert passed >= PASSED[revision], done.stdout[-2000:] + done.stderr[-2000:]
    expected = {name for reason in BASELINE[revision].values() for name in reason["checks"]}
    news = {name: failed[name] for name in failed.keys() - expected}
    assert not news
    assert not expected - failed.keys(), "these pass now: take them out of baseline.toml"
