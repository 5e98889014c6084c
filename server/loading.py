"""From settings to running services. Whatever is damaged or missing is named in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cpu.threads import compute_alone
from kan.checkpoint.directory import Checkpoint, CheckpointError
from kan.config import KANConfig
from kan.kernels.memory import page_bytes
from kan.knowledge.grounding import Grounding, GroundingError
from kan.knowledge.phi import Phi, PhiError, gap_phi, load_phi
from kan.prompt import PromptBuilder
from kan.shipped import grounding_beside, shipped_model, shipped_phi
from kb.encoder.minilm import MiniLMEncoder
from kb.encoder.protocol import Encoder
from kb.facts import KnowledgeError, Limits
from kb.log.location import Location
from kb.store import Store
from server.engine.dtype import choose_dtype
from server.engine.paged.embedded import EmbeddedEngine
from server.engine.paged.options import EngineOptions, PageBits
from server.engine.paged.page_form import PageForm
from server.engine.pages.formats import clear_other_formats
from server.engine.protocol import Engine
from server.engine.vllm.arguments import VllmOptions
from server.http.keys import KeyFileError, Keys
from server.service.embedding import PackagedTokenizer
from server.service.response_store import Bounds, ResponseStore, ResponseStoreError
from server.services import Services
from server.settings import Settings

if TYPE_CHECKING:
    from server.http.tracing import Tracing

GIB = 2**30
DAY_S = 86_400.0
_REASONS = (CheckpointError, PhiError, GroundingError, KnowledgeError, KeyFileError, ResponseStoreError)
OTLP_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
logger = logging.getLogger("kalmagrove.traces")


class StartupError(Exception):
    """The server cannot start; the message is for the person who started it."""


def load(settings: Settings, console: Console) -> Services:
    """Blocks for seconds. Raises StartupError."""
    compute_alone()
    with _explained():
        tracing = tracing_of(settings)
        keys = Keys.read(settings.client_keys_file, settings.admin_keys_file)
        with console.status(f"Loading {settings.model} …"):
            checkpoint = _checkpoint(settings)
            prompt = PromptBuilder.from_checkpoint(checkpoint)
            encoder = MiniLMEncoder()
            encoder_tokenizer = PackagedTokenizer()
            phi, grounding = load_learned(settings.phi, checkpoint, encoder.model_fingerprint)
        store = _open_store(settings, encoder, console)
        try:
            responses = _open_responses(settings)
            with console.status(f"Starting the {settings.engine} engine …"):
                engine = _start_engine(settings, checkpoint, prompt, phi, encoder.model_fingerprint)
        except BaseException:
            store.close()
            raise
    return Services(
        tracing=tracing,
        responses=responses,
        engine=engine,
        store=store,
        encoder=encoder,
        encoder_tokenizer=encoder_tokenizer,
        prompt=prompt,
        model_name=settings.model_dir.name,
        grounding=grounding,
        keys=keys,
    )


def tracing_of(settings: Settings) -> Tracing | None:
    """None: nobody wants traces. Raises StartupError."""
    told_where = any(os.environ.get(name) for name in OTLP_VARIABLES)
    if settings.otel == "off" or (settings.otel == "auto" and not told_where):
        return None
    try:
        from server.http.tracing import Tracing
    except ImportError as error:
        if settings.otel == "on":
            raise StartupError("otel: pip install 'kalmagrove[otel]'") from error
        logger.warning("no traces, although OTEL_EXPORTER_OTLP_ENDPOINT is set: pip install 'kalmagrove[otel]'")
        return None
    return Tracing.exporting()


def _start_engine(
    settings: Settings, checkpoint: Checkpoint, prompt: PromptBuilder, phi: Phi | None, encoder_fingerprint: str
) -> Engine:
    if settings.engine == "embedded":
        options = engine_options(settings, checkpoint.config)
        if settings.page_dir is not None and options.page_dir is not None:
            clear_other_formats(settings.page_dir, options.page_dir)
        return EmbeddedEngine.start(checkpoint, prompt, options, phi)
    from server.engine.vllm.engine import VllmEngine

    if checkpoint.config.attention != "full" and settings.attention != "full":
        raise ValueError(f"attention: the vllm engine computes full attention only, not {checkpoint.config.attention}")
    origin = f"{encoder_fingerprint} {phi.digest if phi else None}"
    return VllmEngine.start(checkpoint, prompt, vllm_options(settings), phi, origin)


def vllm_options(settings: Settings) -> VllmOptions:
    """The bounds of the engine on vLLM."""
    assert settings.page_dir is not None, "checked by the settings"
    return VllmOptions(
        view_dir=settings.view_dir,
        page_dir=settings.page_dir,
        disk_bytes=_disk_bytes(settings),
        disk_reserve_bytes=settings.disk_reserve_mib << 20,
        dtype=settings.dtype,
        arguments=settings.vllm_args,
        cache_gib=settings.cache_gib,
        max_running=settings.max_running,
        max_fact_tokens=settings.max_fact_tokens,
    )


def engine_options(settings: Settings, config: KANConfig) -> EngineOptions:
    """The engine's bounds for this model: memory is counted in pages there."""
    dtype = choose_dtype(settings.dtype)
    options = EngineOptions(
        dtype=settings.dtype,
        kernels=settings.kernels,
        attention=settings.attention,
        attention_blocks=settings.attention_blocks,
        attention_threshold=settings.attention_threshold,
        page_bits=settings.page_bits,
        page_dir=settings.page_dir and settings.page_dir / _number_format(dtype, settings.page_bits),
        disk_bytes=_disk_bytes(settings),
        disk_reserve_bytes=settings.disk_reserve_mib << 20,
        max_running=settings.max_running,
        max_fact_tokens=settings.max_fact_tokens,
        step_tokens=settings.step_tokens,
        busy_step_tokens=max(EngineOptions().busy_step_tokens, 2 * settings.max_running),
    )
    bytes_per_page = page_bytes(options.configured(config), dtype, PageForm.of(dtype, settings.page_bits).small_bits)
    return replace(options, pages=max(1, int(settings.cache_gib * GIB / bytes_per_page)))


def _number_format(dtype: torch.dtype, page_bits: PageBits) -> str:
    """The name of the directory, as of the vllm engine's: either engine can use what the other one encoded."""
    name = str(dtype).removeprefix("torch.")
    return name if page_bits == 16 else f"{name}-{page_bits}bit"


def _disk_bytes(settings: Settings) -> int:
    return max(1, int(settings.page_cache_disk_gib * GIB))


def _checkpoint(settings: Settings) -> Checkpoint:
    """Of the models directory, or else a shipped one."""
    directory = settings.model_dir
    if not directory.is_dir():
        if shipped := shipped_model(settings.model):
            return Checkpoint.open(shipped)
        raise StartupError(
            f"there is no model at {directory}; `kalmagrove model import {settings.model}` may bring it there"
        )
    return Checkpoint.open(directory)


def load_learned(name: str, checkpoint: Checkpoint, encoder_fingerprint: str) -> tuple[Phi | None, Grounding | None]:
    """φ by the setting's value, and the calibration of `grounded` that belongs to it.

    Raises PhiError or GroundingError, naming the file, if it is damaged or made for another model, encoder or φ.
    """
    config = checkpoint.config
    path = shipped_phi(checkpoint.fingerprint) if name == "auto" else None
    if name == "none":
        return None, None
    if name == "gap" or (name == "auto" and path is None):
        return gap_phi(config.num_layers, config.num_heads, config.head_dim), None
    path = path or Path(name)
    phi = load_phi(
        path,
        config,
        model_fingerprint=checkpoint.fingerprint,
        encoder_fingerprint=encoder_fingerprint,
    )
    calibration = grounding_beside(path)
    if calibration is None:
        return phi, None
    grounding = Grounding.load(calibration)
    if grounding.phi_digest != phi.digest or grounding.model_fingerprint != checkpoint.fingerprint:
        raise GroundingError(f"{calibration}: calibrated for another model or φ")
    return phi, grounding


def _open_store(settings: Settings, encoder: Encoder, console: Console) -> Store:
    location = settings.knowledge_location
    if "://" not in location:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Opening the knowledge", total=None)
        return Store.open(
            location,
            encoder,
            limits=Limits(batch_changes=settings.max_batch_facts),
            poll_seconds=settings.knowledge_poll_s,
            history_days=settings.history_days,
            local=settings.replica_dir,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _open_responses(settings: Settings) -> ResponseStore | None:
    """In the directory that the knowledge's lock keeps to one process."""
    if not settings.max_stored_responses:
        return None
    bounds = Bounds(
        count=settings.max_stored_responses,
        bytes=settings.stored_responses_mib << 20,
        seconds=settings.stored_responses_days * DAY_S,
    )
    return ResponseStore(Location.of(settings.knowledge_location), bounds)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (*_REASONS, ValueError, OSError) as error:
        raise StartupError(str(error)) from error
