"""Write the dashboards' JSON: `python -m deploy.grafana.generate` (`make dashboards`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh

from deploy.grafana import errors, knowledge, latency, saturation
from deploy.grafana.panels import PROMETHEUS, Panel

DIRECTORY = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Title in small letters -> JSON."""
    return {
        "latency": _render("Latency", latency.panels(), latency.vllm_panels()),
        "knowledge": _render("Knowledge", knowledge.panels()),
        "saturation": _render("Saturation", saturation.panels(), saturation.vllm_panels()),
        "errors": _render("Errors", errors.panels()),
    }


def write(directory: Path = DIRECTORY) -> None:
    """Write one file per dashboard."""
    for name, text in dashboards().items():
        (directory / f"{name}.json").write_text(text, "utf-8")


def _render(title: str, panels: Sequence[Panel], of_vllm: Sequence[Panel] = ()) -> str:
    board = Dashboard(f"KalmaGrove: {title}").uid(f"kalmagrove-{title.lower()}").tags(["kalmagrove"]).readonly()
    board = board.refresh("10s").time("now-30m", "now").timezone("browser").with_variable(_instances())
    for number, panel in enumerate(panels, 1):
        board = board.with_panel(panel.id(number))
    if of_vllm:
        board = board.with_row(Row("vLLM's own measurements").id(len(panels) + 1))
    for number, panel in enumerate(of_vllm, len(panels) + 2):
        board = board.with_panel(panel.id(number))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _instances() -> QueryVariable:
    variable = QueryVariable("instance").label("Server").datasource(PROMETHEUS)
    variable = variable.query("label_values(kalmagrove_engine_healthy, instance)").refresh(
        VariableRefresh.ON_TIME_RANGE_CHANGED
    )
    everything = VariableOption(selected=True, text="All", value="$__all")
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


if __name__ == "__main__":
    write()
