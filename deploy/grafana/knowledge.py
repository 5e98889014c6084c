"""Edits, and where mounted facts come from."""

from __future__ import annotations

from deploy.grafana.panels import Panel, gauge, heat, lines, quantiles, rate


def panels() -> list[Panel]:
    """In reading order."""
    return [
        lines("Edits per second", "ops", {"{{size}}": rate("kalmagrove_edit_visible_seconds_count", by="size")}),
        quantiles(
            "Edit to visible", "kalmagrove_edit_visible_seconds", "size", "Budget: p99 of small edits at most 100 ms."
        ),
        heat("Edit to visible, all", "kalmagrove_edit_visible_seconds"),
        lines("Version", "short", {"{{instance}}": gauge("kalmagrove_kb_version")}),
        lines(
            "Behind the log",
            "s",
            {"{{instance}}": gauge("kalmagrove_knowledge_lag_seconds")},
            "Of servers that share one: since all of it was last known to be published there.",
        ),
        lines(
            "Versions behind the log, and the log's reach",
            "short",
            {
                "{{instance}} behind": gauge("kalmagrove_knowledge_lag_versions"),
                "{{instance}} reaches it": gauge("kalmagrove_knowledge_log_connected"),
            },
            "Out of reach (0), a server answers from what it has and refuses edits.",
        ),
        lines(
            "Edits of other servers per second",
            "ops",
            {"{{instance}}": rate("kalmagrove_knowledge_followed_total")},
            "Versions that were published here and made elsewhere.",
        ),
        lines(
            "Facts", "short", {"facts": gauge("kalmagrove_kb_facts"), "tombstones": gauge("kalmagrove_kb_tombstones")}
        ),
        lines(
            "Facts mounted and encoded per second",
            "ops",
            {"mounted": rate("kalmagrove_facts_mounted_total"), "encoded": rate("kalmagrove_facts_encoded_total")},
        ),
        lines(
            "Page hits and misses per second",
            "ops",
            {"hits": rate("kalmagrove_page_hits_total"), "misses": rate("kalmagrove_page_misses_total")},
            "A miss is a cold mount: read from disk or encoded again.",
        ),
        lines(
            "Pages made",
            "percentunit",
            {"{{instance}}": f"{gauge('kalmagrove_facts_with_pages')} / {gauge('kalmagrove_kb_texts')}"},
            "Of the facts' texts. After an import, or another server's edits, the rest is made in the background.",
        ),
        lines("Cold mounts", "percentunit", {"{{instance}}": gauge("kalmagrove:page_misses:ratio_rate5m")}),
        lines("Index segments", "short", {"{{instance}}": gauge("kalmagrove_kb_segments")}),
        lines("Merges per second", "ops", {"{{instance}}": rate("kalmagrove_kb_merges_total")}),
    ]
