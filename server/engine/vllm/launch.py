"""Everything that must be settled before vLLM's processes start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kan.checkpoint.directory import Checkpoint
from kan.knowledge.adapter import Adapter, save_adapter
from server.engine.pages.files import PageFiles
from server.engine.pages.formats import clear_other_formats
from server.engine.vllm.arguments import VllmOptions, engine_arguments, knowledge_transfer, prepare_environment
from server.engine.vllm.plugin.hugging_face import write_view
from server.engine.vllm.plugin.transfer import stage_directory
from server.engine.vllm.progress import ForwardProgress, stat_logger

ADAPTER_FILE = "adapter.safetensors"


def launcher(
    checkpoint: Checkpoint, options: VllmOptions, adapter: Adapter | None
) -> tuple[Any, Callable[[ForwardProgress], Any], PageFiles]:
    """vLLM's configuration, what starts an AsyncLLM by it (and blocks meanwhile), and where page content lies.

    Raises ValueError for options that vLLM or the model does not take, VllmUnavailable without vLLM.
    """
    prepare_environment(options)
    arguments = engine_arguments(
        options, write_view(checkpoint, options.view_dir / checkpoint.fingerprint), checkpoint.config.name
    )
    plain = arguments.create_engine_config()
    page_dir = options.page_dir / _number_format(plain)
    clear_other_formats(options.page_dir, page_dir)
    arguments.kv_transfer_config = knowledge_transfer(options, page_dir, _adapter_file(adapter, page_dir))
    config = arguments.create_engine_config()

    def create(progress: ForwardProgress) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_vllm_config(config, stat_loggers=[stat_logger(progress)])

    stages = config.parallel_config.pipeline_parallel_size
    directories = [stage_directory(page_dir, stage, stages) for stage in range(stages)]
    return config, create, PageFiles(directories, options.disk_bytes, options.disk_reserve_bytes)


def _adapter_file(adapter: Adapter | None, directory: Path) -> Path | None:
    """Where vLLM's workers find the adapter."""
    if adapter is None:
        return None
    directory.mkdir(parents=True, exist_ok=True)
    save_adapter(adapter, directory / ADAPTER_FILE)
    return directory / ADAPTER_FILE


def _number_format(config: Any) -> str:
    """Page content is only shared where the numbers are the same."""
    dtype = str(config.model_config.dtype).removeprefix("torch.")
    return f"{dtype}-{config.model_config.quantization}" if config.model_config.quantization else dtype
