"""Every PromQL expression that `deploy/` asks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.pictures import concrete

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"


@dataclass(frozen=True)
class Asked:
    """An expression, and where it stands."""

    where: str
    promql: str

    @property
    def of_vllm(self) -> bool:
        """Whether it needs what only vLLM measures."""
        return "vllm" in self.promql


def rules(file: str) -> list[dict[str, Any]]:
    """The rules of all groups of a file."""
    groups = yaml.safe_load((RULES / file).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """(dashboard's title, panel), rows left out."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text("utf-8"))
        for panel in board["panels"]:
            for one in panel.get("panels") or [panel]:
                if one["type"] != "row":
                    yield board["title"], one


def asked() -> Iterator[Asked]:
    """Alerts are asked without their bounds: those only hold where something is wrong."""
    for rule in rules("recording.yml"):
        yield Asked(rule["record"], rule["expr"])
    for rule in rules("alerts.yml"):
        for part in rule["expr"].split(" or "):
            yield Asked(rule["alert"], re.sub(r" (==|>) [0-9.]+$", "", part))
    for title, panel in panels():
        for target in panel["targets"]:
            yield Asked(f"{title}: {panel['title']}", concrete(target["expr"]))
