"""How much of the server is in use."""

from __future__ import annotations

from deploy.grafana.panels import Panel, gauge, lines, rate


def panels() -> list[Panel]:
    """What the server says of either engine."""
    return [
        lines(
            "Sequences",
            "short",
            {"running": gauge("kalmagrove_requests_running"), "waiting": gauge("kalmagrove_requests_waiting")},
        ),
        lines("HTTP requests in flight", "short", {"{{instance}}": gauge("kalmagrove_http_requests_in_flight")}),
        lines(
            "Tokens per second",
            "ops",
            {"generated": rate("kalmagrove_generated_tokens_total"), "prompt": rate("kalmagrove_prompt_tokens_total")},
        ),
        lines("KV pages", "short", {"{{use}}": gauge("kalmagrove_pages"), "all": gauge("kalmagrove_pages_capacity")}),
        lines(
            "Pages held by running requests",
            "percentunit",
            {"{{instance}}": gauge("kalmagrove:pages_context:ratio")},
            "Knowledge stays in memory for as long as there is room, so it is no sign of pressure.",
        ),
        lines("Preemptions per second", "ops", {"{{instance}}": rate("kalmagrove_preemptions_total")}),
        lines(
            "Batch size",
            "short",
            {"tokens generated per step": gauge("kalmagrove:generated_tokens_per_step:rate5m")},
            "Sequences that get a token in one step.",
        ),
        lines("CPU", "percentunit", {"{{instance}}": rate("kalmagrove_process_cpu_seconds_total")}, "1 is one core."),
        lines("Resident memory", "bytes", {"{{instance}}": gauge("kalmagrove_process_resident_memory_bytes")}),
        lines("Open files", "short", {"{{instance}}": gauge("kalmagrove_process_open_fds")}),
    ]


def vllm_panels() -> list[Panel]:
    """Empty while the embedded engine serves."""
    return [
        lines(
            "vLLM: requests",
            "short",
            {
                "running {{engine}}": gauge("vllm:num_requests_running"),
                "waiting {{engine}}": gauge("vllm:num_requests_waiting"),
            },
        ),
        lines("vLLM: KV cache in use", "percentunit", {"{{engine}}": gauge("vllm:kv_cache_usage_perc")}),
        lines(
            "vLLM: tokens per step",
            "short",
            {
                "{{engine}}": f"{rate('vllm:iteration_tokens_total_sum', by='engine')}"
                f" / {rate('vllm:iteration_tokens_total_count', by='engine')}"
            },
        ),
    ]
