"""How long things take, by endpoint; what vLLM says of itself besides."""

from __future__ import annotations

from deploy.grafana.panels import Panel, gauge, heat, lines, quantiles

BUDGET = "Budget: p99 at most 100 ms."


def panels() -> list[Panel]:
    """The service's own measurements hold for either engine."""
    return [
        quantiles("Time to first token", "kalmagrove_time_to_first_token_seconds", "endpoint", BUDGET),
        heat("Time to first token, all", "kalmagrove_time_to_first_token_seconds"),
        lines(
            "First token, p99 over 5 minutes",
            "s",
            {"{{instance}} {{endpoint}}": gauge("kalmagrove:time_to_first_token_seconds:p99_5m")},
            "What the alert goes by.",
        ),
        quantiles("Time per output token", "kalmagrove_inter_token_seconds", "endpoint"),
        heat("Time per output token, all", "kalmagrove_inter_token_seconds"),
        quantiles("Retrieval", "kalmagrove_retrieval_seconds", description="Query embedding and search."),
        quantiles("Queue", "kalmagrove_queue_seconds", "endpoint", "Admission, and the engine's pages."),
        heat("Queue, all", "kalmagrove_queue_seconds"),
        lines(
            "Engine",
            "short",
            {"{{instance}}: {{model}}, {{dtype}}, {{kernels}}": gauge("kalmagrove_engine_info")},
            "Which engine the figures are of: the kernels are native, torch or vllm.",
        ),
        quantiles("End to end", "kalmagrove_end_to_end_seconds", "endpoint", "Finished requests."),
        heat("End to end, all", "kalmagrove_end_to_end_seconds"),
        quantiles("HTTP, by route", "kalmagrove_http_request_seconds", "route", "Until the last byte was sent."),
    ]


def vllm_panels() -> list[Panel]:
    """Empty while the embedded engine serves."""
    return [
        quantiles("vLLM: time to first token", "vllm:time_to_first_token_seconds", "engine"),
        quantiles("vLLM: time per output token", "vllm:inter_token_latency_seconds", "engine"),
        quantiles("vLLM: queue", "vllm:request_queue_time_seconds", "engine"),
        quantiles("vLLM: end to end", "vllm:e2e_request_latency_seconds", "engine"),
        quantiles("vLLM: prefill", "vllm:request_prefill_time_seconds", "engine"),
        quantiles("vLLM: decode", "vllm:request_decode_time_seconds", "engine"),
    ]
