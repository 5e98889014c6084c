"""The KV connector: vLLM asks it which tokens of a prompt need not be computed, and when to load and record them.

Scheduler side (one per engine core): which requests mount or record, and in which blocks they lie.
Worker side (one per rank): loader and recorder, each step told by the scheduler side what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from kan.knowledge.adapter import load_adapter
from server.engine.vllm.plugin.loader import Load, Loader
from server.engine.vllm.plugin.recorder import Recorder, Recording
from server.engine.vllm.plugin.shard import Shard
from server.engine.vllm.plugin.transfer import Mount, Record, from_params

DIRECTORY = "directory"
CACHE_BYTES = "cache_bytes"
ADAPTER = "adapter"
"""Keys of our extra configuration: where page content lies, how much of it a worker may keep in memory, and the file of
φ's adapter ("" if there is none)."""


@dataclass
class StepPlan(KVConnectorMetadata):  # type: ignore[misc]
    """What the workers have to do in one step."""

    loads: list[Load] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """Requests that recorded and are gone."""


@dataclass
class _Recorded:
    """A request that records, and the blocks it has so far."""

    record: Record
    total: int
    blocks: list[int] = field(default_factory=list)


class KnowledgeConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """See vLLM's `KVConnectorBase_V1` for when each method is called, and on which side."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self._block_size: int = vllm_config.cache_config.block_size
        self._loads: list[Load] = []
        self._recorded: dict[str, _Recorded] = {}
        self._ended: list[str] = []
        self._loader: Loader | None = None
        self._recorder: Recorder | None = None

    # --- scheduler side ---

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Knowledge tokens beyond those in vLLM's own prefix cache, to be loaded within the step."""
        mount = from_params(request.kv_transfer_params)
        return (max(0, mount.tokens - num_computed_tokens) if isinstance(mount, Mount) else 0), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The request has blocks: note what to load into them."""
        mount = from_params(request.kv_transfer_params)
        if isinstance(mount, Mount) and num_external_tokens > 0:
            self._loads.append(Load(mount, mount.tokens - num_external_tokens, blocks.get_block_ids()[0]))

    def on_new_request(self, request: Any) -> None:
        """A request has arrived: remember it if it is to be recorded."""
        record = from_params(request.kv_transfer_params)
        if isinstance(record, Record):
            self._recorded[request.request_id] = _Recorded(record, request.num_prompt_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepPlan:
        """The step's plan, for the workers."""
        self._follow_blocks(scheduler_output)
        computed = {new.req_id: new.num_computed_tokens for new in scheduler_output.scheduled_new_reqs}
        cached = scheduler_output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        recordings = []
        for name, recorded in self._recorded.items():
            if (count := scheduler_output.num_scheduled_tokens.get(name, 0)) and computed[name] < recorded.total:
                end = min(computed[name] + count, recorded.total)
                recordings.append(
                    Recording(name, recorded.record, recorded.total, computed[name], end, list(recorded.blocks))
                )
        plan = StepPlan(self._loads, recordings, self._ended)
        self._loads, self._ended = [], []
        return plan

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        """Nothing outlives a request: its blocks are vLLM's to free at once."""
        if self._recorded.pop(request.request_id, None) is not None:
            self._ended.append(request.request_id)
        return False, None

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        """The same, as vLLM calls it where there is only one group of blocks."""
        return self.request_finished_all_groups(request, block_ids)

    def _follow_blocks(self, scheduler_output: Any) -> None:
        for new in scheduler_output.scheduled_new_reqs:
            if new.req_id in self._recorded:
                self._recorded[new.req_id].blocks = list(new.block_ids[0])
        cached = scheduler_output.scheduled_cached_reqs
        for name, blocks in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if name in self._recorded:
                known = [] if name in cached.resumed_req_ids else self._recorded[name].blocks
                self._recorded[name].blocks = [*known, *(blocks[0] if blocks else ())]

    # --- worker side ---

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """The cache exists: from now on steps may be planned."""
        shard = Shard.of(self._vllm_config)
        options = self._kv_transfer_config.kv_connector_extra_config
        directory = shard.directory(Path(options[DIRECTORY]))
        adapter = load_adapter(Path(options[ADAPTER])) if options[ADAPTER] else None
        own = None if adapter is None else adapter.of_layers(shard.first_layer, len(shard.layers)).to(shard.dtype)
        self._loader = Loader(shard, directory, options[CACHE_BYTES], self._block_size, own)
        self._recorder = Recorder(shard, directory, self._block_size)
        for layer in shard.layers:
            layer.observer = self._recorder.see

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        """Before the forward pass of a step that loads; after it otherwise, when there is nothing to do."""
        if self._loader is not None:
            self._loader.load(self._plan.loads)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """A step begins."""
        super().bind_connector_metadata(connector_metadata)
        if self._recorder is not None:
            self._recorder.begin(self._plan.recordings, self._plan.ended)

    def wait_for_save(self) -> None:
        """The forward pass has run: write what it completed. The step's result is not told before."""
        if self._recorder is not None:
            self._recorder.end()

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks of requests whose knowledge could not be loaded: vLLM fails those requests, and only those."""
        return self._loader.take_failed_blocks() if self._loader is not None else set()

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Everything was loaded before the first layer."""

    def save_kv_layer(self, layer_name: str, kv_layer: Tensor, attn_metadata: Any, **_: Any) -> None:
        """The recorder has seen the layer already, before it went into the cache."""

    @property
    def _plan(self) -> StepPlan:
        plan: StepPlan = self._get_connector_metadata()
        return plan
