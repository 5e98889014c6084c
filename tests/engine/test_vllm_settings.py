"""What of the vLLM engine can be judged without vLLM: settings, environment, restarts, and that nothing imports it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.engine.protocol import EngineUnavailable
from server.engine.vllm import core
from server.engine.vllm.arguments import VllmOptions, VllmUnavailable, prepare_environment, require_vllm
from server.engine.vllm.core import Core
from server.engine.vllm.plugin.hugging_face import hugging_face_config
from server.settings import Settings
from tests.engine.harness import until
from tests.tiny import tiny_config


def options(**changed: Any) -> VllmOptions:
    return VllmOptions(view_dir=Path("views"), page_dir=Path("pages"), disk_bytes=1, **changed)


def test_serving_without_vllm_imports_none_of_it() -> None:
    """Not vLLM, and not even our own parts that know it."""
    code = (
        "import sys, server.http.app, server.loading, server.serve; "
        "print([name for name in sys.modules if name.startswith(('vllm', 'server.engine.vllm.plugin'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() in ("[]", "['server.engine.vllm.plugin', 'server.engine.vllm.plugin.orphans']")


def test_the_environment_fits_the_machine_and_respects_the_user() -> None:
    one: dict[str, str] = {"VLLM_CPU_KVCACHE_SPACE": "7"}
    prepare_environment(options(cache_gib=1.2), one)
    assert one["VLLM_CPU_KVCACHE_SPACE"] == "7", "the user's own value was changed"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in one
    two: dict[str, str] = {}
    prepare_environment(options(cache_gib=1.2, arguments="--tensor-parallel-size 2"), two)
    assert two["VLLM_CPU_KVCACHE_SPACE"] == "2", "whole GiB, rounded up"
    assert len(two["VLLM_CPU_OMP_THREADS_BIND"].split("|")) == 2
    four: dict[str, str] = {}
    prepare_environment(options(arguments="-tp=2 --pipeline-parallel-size 2"), four)
    assert len(four["VLLM_CPU_OMP_THREADS_BIND"].split("|")) == 4


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="vllm_args: only the vllm engine"):
        Settings(vllm_args="--tensor-parallel-size 2")
    with pytest.raises(ValidationError, match="page_cache_disk_gib"):
        Settings(engine="vllm", page_cache_disk_gib=0)
    for bits in (4, 8):
        with pytest.raises(ValidationError, match="page_bits: the vllm engine keeps facts in vLLM's own KV cache"):
            Settings(engine="vllm", page_bits=bits)
    assert Settings(engine="vllm", vllm_args="-tp 2").vllm_args == "-tp 2"


def test_a_missing_vllm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(VllmUnavailable, match="make serve-vllm"):
        require_vllm()


def test_a_model_with_a_group_is_refused() -> None:
    config = tiny_config(group="cyclic(2)", group_action=(((10, 11),),))
    with pytest.raises(ValueError, match=r"cyclic\(2\): only the embedded engine"):
        hugging_face_config(config)


def test_the_model_in_hugging_faces_words() -> None:
    config = tiny_config(attention_bias=True)
    told = hugging_face_config(config)
    assert (told["num_hidden_layers"], told["num_key_value_heads"], told["attention_bias"]) == (2, 2, True)
    assert told["head_dim"] == config.head_dim
    transformers = pytest.importorskip("transformers")
    assert transformers.LlamaConfig(**told).num_attention_heads == config.num_heads


class StubLLM:
    """What `Core` needs of an AsyncLLM."""

    def __init__(self) -> None:
        self.errored = False
        self.stopped = False

    def shutdown(self) -> None:
        self.stopped = True


class Maker:
    """Makes stubs, and fails when told to."""

    def __init__(self) -> None:
        self.made: list[StubLLM] = []
        self.fails = False
        self.failed = 0

    def __call__(self) -> StubLLM:
        if self.fails:
            self.failed += 1
            raise RuntimeError("no memory")
        self.made.append(StubLLM())
        return self.made[-1]


def refusal(watched: Core) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        watched.use()
    return str(caught.value)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "WATCH_SECONDS", 0.002)


@pytest.mark.usefixtures("quickly")
async def test_a_dead_engine_is_replaced() -> None:
    make, deaths = Maker(), 0

    def died() -> None:
        nonlocal deaths
        deaths += 1

    watched = Core(make, died)
    assert watched.use() is make.made[0]
    make.made[0].errored = True
    assert not watched.alive
    with pytest.raises(EngineUnavailable, match="restarted"):
        watched.use()
    await until(lambda: watched.alive, "the engine's return")
    assert watched.use() is make.made[1]
    assert make.made[0].stopped
    assert deaths == 1
    await watched.aclose()
    assert make.made[1].stopped
    with pytest.raises(EngineUnavailable, match="shut down"):
        watched.use()
    await watched.aclose()


@pytest.mark.usefixtures("quickly")
async def test_restarts_are_bounded() -> None:
    make = Maker()
    watched = Core(make, lambda: None)
    watched.use()
    for number in range(core.MAX_RESTARTS):
        make.made[number].errored = True
        await until(lambda: watched.alive, "the engine's return")
    make.made[-1].errored = True
    await until(lambda: "died 4 times" in refusal(watched), "the end of its patience")
    assert len(make.made) == core.MAX_RESTARTS + 1
    await watched.aclose()


@pytest.mark.usefixtures("quickly")
async def test_a_restart_that_fails_is_tried_again_within_the_bound() -> None:
    make = Maker()
    watched = Core(make, lambda: None)
    watched.use()
    make.fails = True
    make.made[0].errored = True
    await until(lambda: make.failed > 1, "another try")
    assert not watched.alive
    with pytest.raises(EngineUnavailable):
        watched.use()
    assert len(make.made) == 1
    await watched.aclose()
