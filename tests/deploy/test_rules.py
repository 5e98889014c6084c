"""Alerts and recording rules do what they say, by Prometheus' own test tool (Debian package `prometheus`)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.expressions import RULES, rules

PROMTOOL = shutil.which("promtool")
TESTS = sorted((RULES / "tests").glob("*.test.yml"))


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_say(file: Path) -> None:
    _promtool("test", "rules", file)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_configuration_is_valid() -> None:
    _promtool("check", "config", "--syntax-only", RULES / "prometheus.yml")
    _promtool("check", "rules", *sorted(RULES.glob("[ar]*.yml")))


def test_every_recording_rule_is_tested() -> None:
    tested = (RULES / "tests" / "recording.test.yml").read_text("utf-8")
    assert [rule["record"] for rule in rules("recording.yml") if rule["record"] not in tested] == []


def test_every_alert_is_tested_quiet_and_firing() -> None:
    """And names what fired, how bad it is and what to do."""
    tested = (RULES / "tests" / "alerts.test.yml").read_text("utf-8")
    for rule in rules("alerts.yml"):
        name = rule["alert"]
        assert re.search(rf"alertname: {name}, exp_alerts: \[\]", tested), name
        assert re.search(rf"alertname: {name}\n +exp_alerts:\n +- exp_labels:", tested), name
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
