"""The alerts say what is true, of metrics that exist, and tell where to read on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from memfast.config import settings
from memfast.metrics.families import FAMILIES, operation_families

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "ops" / "prometheus"
ALERTS = [rule for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TESTED = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
DEFINED = (*operation_families([]), *FAMILIES)
SERIES = {family.name + ending for family in DEFINED for ending in ENDINGS[family.kind]}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")


@promtool
@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_agrees(arguments):
    """The rules are sound, and each fires where it should and only there."""
    done = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_of_metrics_that_exist(alert):
    """No expression waits for a series that nobody writes."""
    assert set(re.findall(r"memfast_\w+", alert["expr"])) <= SERIES


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_and_explained(alert):
    """Each is seen to fire by a test, and has a paragraph under its name."""
    name = alert["alert"]
    cases = [case for test in TESTED for case in test["alert_rule_test"] if case["alertname"] == name]
    assert any(case["exp_alerts"] for case in cases)
    assert f"\n## {name}\n" in RUNBOOK
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_runbook_has_no_paragraph_too_many():
    """What has no alert any more is not explained."""
    assert set(re.findall(r"^## (\w+)$", RUNBOOK, flags=re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


def test_the_runbook_speaks_of_metrics_and_settings_that_exist():
    """Whoever reads it at night finds what it names."""
    assert set(re.findall(r"`(memfast_\w+)`", RUNBOOK)) <= SERIES | {family.name for family in DEFINED}
    named = set(re.findall(r"`((?:memory|index|postgres|history|resilience|graph)\.\w+)`", RUNBOOK))
    assert named
    assert named <= {setting.key for setting in settings()}
