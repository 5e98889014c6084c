"""What was refused, failed or left."""

from __future__ import annotations

from deploy.grafana.panels import Panel, gauge, lines, rate

NO_PROBES = 'route!~"/(health|ready|metrics)"'


def panels() -> list[Panel]:
    """In reading order."""
    return [
        lines(
            "Requests per second, by status",
            "reqps",
            {"{{status}}": rate("kalmagrove_http_requests_total", NO_PROBES, "status")},
        ),
        lines(
            "Refused and failed, by route",
            "reqps",
            {"{{status}} {{route}}": rate("kalmagrove_http_requests_total", 'status=~"[45].."', "status, route")},
        ),
        lines("Refusals per second, by code", "reqps", {"{{reason}}": rate("kalmagrove_refusals_total", by="reason")}),
        lines(
            "Share of requests",
            "percentunit",
            {
                "429 {{instance}}": gauge("kalmagrove:overloaded:ratio_rate5m"),
                "5xx {{instance}}": gauge("kalmagrove:errors:ratio_rate5m"),
            },
            "What the alerts go by.",
        ),
        lines(
            "Clients that left, by stage", "reqps", {"{{stage}}": rate("kalmagrove_cancellations_total", by="stage")}
        ),
        lines(
            "Work dropped with them",
            "ops",
            {
                "sequences": rate("kalmagrove_engine_cancellations_total"),
                "computations": rate("kalmagrove_engine_jobs_dropped_total"),
                "{{lane}}": rate("kalmagrove_jobs_dropped_total", by="lane"),
            },
        ),
        lines("Ready", "short", {"{{instance}}": gauge("kalmagrove_engine_healthy")}),
        lines(
            "Removals of expired facts that failed", "ops", {"{{instance}}": rate("kalmagrove_sweep_failures_total")}
        ),
    ]
