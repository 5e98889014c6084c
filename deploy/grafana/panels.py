"""The kinds of panel that the dashboards are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, heatmap, prometheus, timeseries
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
"""The data source of `provisioning/`."""
INSTANCE = 'instance=~"$instance"'
"""Label matcher of the servers that were chosen at the top of a dashboard."""
PER_ROW = 3
WIDTH, HEIGHT = 24 // PER_ROW, 8
QUANTILES = (0.5, 0.9, 0.99)

Panel: TypeAlias = timeseries.Panel | heatmap.Panel


def lines(title: str, unit: str, queries: Mapping[str, str], description: str = "") -> timeseries.Panel:
    """One line per series of each query; `queries`: legend -> PromQL. `unit` is one of Grafana's."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(description).unit(unit).min(0).legend(legend.show_legend(True))
    panel = panel.datasource(PROMETHEUS).span(WIDTH).height(HEIGHT)
    for number, (name, expression) in enumerate(queries.items()):
        query = prometheus.Dataquery().expr(expression).legend_format(name).ref_id(chr(ord("A") + number))
        panel = panel.with_target(query.datasource(PROMETHEUS).range())
    return panel


def quantiles(title: str, histogram: str, by: str = "", description: str = "") -> timeseries.Panel:
    """p50, p90 and p99 of a histogram of seconds; `by`: a label that gets lines of its own."""
    buckets = rate(f"{histogram}_bucket", by=f"le, {by}" if by else "le")
    suffix = f" {{{{{by}}}}}" if by else ""
    queries = {f"p{100 * part:.0f}{suffix}": f"histogram_quantile({part}, {buckets})" for part in QUANTILES}
    return lines(title, "s", queries, description)


def heat(title: str, histogram: str, description: str = "") -> heatmap.Panel:
    """How often each duration came, over time."""
    expression = f"sum by (le) (increase({histogram}_bucket{{{INSTANCE}}}[$__rate_interval]))"
    query = prometheus.Dataquery().expr(expression).format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    panel = heatmap.Panel().title(title).description(description).calculate(False).unit("s")
    panel = panel.y_axis(heatmap.YAxisConfig().unit("s"))
    panel = panel.datasource(PROMETHEUS).span(WIDTH).height(HEIGHT)
    return panel.with_target(query.datasource(PROMETHEUS).range().ref_id("A"))


def rate(metric: str, matchers: str = "", by: str = "instance") -> str:
    """Per-second rate of a counter, summed to the labels of `by`."""
    inside = ",".join(filter(None, (INSTANCE, matchers)))
    return f"sum by ({by}) (rate({metric}{{{inside}}}[$__rate_interval]))"


def gauge(metric: str, matchers: str = "") -> str:
    """A gauge as it is."""
    return f"{metric}{{{','.join(filter(None, (INSTANCE, matchers)))}}}"
