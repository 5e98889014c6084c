"""The JSON that Grafana reads is what the code says, and asks only for what exists."""

from __future__ import annotations

import re

import yaml

from deploy.grafana.generate import DIRECTORY, dashboards
from deploy.grafana.panels import PROMETHEUS
from server.metrics import Metrics
from tests.deploy.expressions import ROOT, asked, panels, rules
from tests.server.support import Service

PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
_NAME = re.compile(r"\b(?:kalmagrove|vllm):?[a-z0-9_:]+")


def test_json_is_generated_from_the_code() -> None:
    """If not: `make dashboards`."""
    files = {path.stem: path.read_text("utf-8") for path in DIRECTORY.glob("*.json")}
    assert files == dashboards()


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    titles = [(board, panel["title"]) for board, panel in panels()]
    assert len(titles) == len(set(titles))
    places = [(board, *panel["gridPos"].values()) for board, panel in panels()]
    assert len(places) == len(set(places))


def test_dashboards_use_the_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["uid"] == PROMETHEUS.uid
    assert {panel["datasource"]["uid"] for _, panel in panels()} == {source["uid"]}


async def test_names_asked_for_are_measured_or_recorded(service: Service) -> None:
    """A metric that is renamed takes its panels and rules along. vLLM's are asked for where vLLM runs."""
    known = _names(service.context.metrics) | {rule["record"] for rule in rules("recording.yml")}
    wanted = {name for one in asked() for name in _NAME.findall(one.promql) if not name.startswith("vllm:")}
    assert wanted - known == set()
    assert len(wanted) > 30


def _names(metrics: Metrics) -> set[str]:
    found = set()
    for family in metrics.registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"]}
        found |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return found
