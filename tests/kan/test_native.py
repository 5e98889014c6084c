"""The compiled kernels against the formulas in float64, on the same bfloat16 input; attention is in a file of its own.

Bounds are derived, not tried: one rounding to bfloat16 where the result is stored (or a weight is), and a float32
rounding for every operation before it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kan.attention import PAGE_SIZE
from kan.checkpoint.directory import Checkpoint
from kan.kernels import native
from kan.kernels.choice import choose_kernels
from kan.kernels.native import KernelsUnavailable, NativeKernels
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from kan.rope import RotaryTable
from tests.kan.attention_case import noise
from tests.tiny import base_logits, tiny_config

SOURCES = sorted((Path(native.__file__).parent / "c").glob("*.c"))
COMPILER = shutil.which(os.environ.get("CC", "cc"))
ROUND = 2.0**-8
"""Largest relative error of rounding to bfloat16."""
ROUND32 = 2.0**-24
TINY = 2.0**-120
"""Room for results that are subnormal in bfloat16."""

needs_processor = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this processor has no AVX-512 BF16"
)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


def needs_native() -> None:
    """Skips the test where nothing can be compiled or run."""
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor has no AVX-512 BF16")
    if COMPILER is None:
        pytest.skip("no C compiler here, so there is nothing compiled")


@pytest.fixture(scope="module")
def kernels() -> NativeKernels:
    needs_native()
    return NativeKernels(tiny_config(head_dim=64), torch.bfloat16)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def within(found: Tensor, exact: Tensor, bound: Tensor) -> bool:
    """Every number of `found` is finite, and no farther from `exact` than `bound` allows."""
    return bool(found.isfinite().all()) and bool(((found.double() - exact).abs() <= bound + TINY).all())


# --- the other operations ---

widths = st.sampled_from([16, 48, 64, 576, 1536])


@settings(max_examples=60)
@given(rows=st.integers(1, 300), width=widths, scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]), seed=st.integers(0, 999))
def test_rms_norm(kernels: NativeKernels, rows: int, width: int, scale: float, seed: int) -> None:
    x, weight = noise(seed, rows, width, scale=scale), noise(seed + 1, width)
    found = kernels.rms_norm(x, weight, 1e-5)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert within(found, exact, exact.abs() * (ROUND + ROUND32 * (width / 16 + 16)))


@settings(max_examples=60)
@given(
    rows=st.integers(1, 300),
    width=widths,
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4, 1e18]),
    seed=st.integers(0, 999),
)
def test_swiglu(kernels: NativeKernels, rows: int, width: int, scale: float, seed: int) -> None:
    gate_up = noise(seed, rows, 2 * width, scale=scale)
    found = kernels.swiglu(gate_up)
    gate, up = gate_up.double().chunk(2, dim=-1)
    exact = gate * torch.sigmoid(gate) * up
    # Below -87 the denominator leaves float32; what is left of the product is then under 1e-34 of its input.
    bound = exact.abs() * (ROUND + ROUND32 * 32) + (gate * up).abs() * 1e-36
    assert within(found, exact, bound)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 200),
    heads=st.tuples(st.sampled_from([1, 3, 9]), st.sampled_from([1, 3])),
    d=st.sampled_from([32, 64, 96, 128, 256]),
    seed=st.integers(0, 999),
)
def test_rotate_and_store(kernels: NativeKernels, rows: int, heads: tuple[int, int], d: int, seed: int) -> None:
    query_heads, kv_heads = heads
    generator = torch.Generator().manual_seed(seed)
    qkv = noise(seed, rows, query_heads + 2 * kv_heads, d)
    cos, sin = RotaryTable(d, 5000, 1e4, torch.bfloat16).at(torch.randint(0, 5000, (rows,), generator=generator))
    kv = noise(seed + 1, 2, kv_heads, 16, PAGE_SIZE, d)
    before, untouched = qkv.clone(), kv.clone().flatten(2, 3)
    slots = torch.randperm(16 * PAGE_SIZE, generator=generator)[:rows]

    queries = kernels.rotate_and_store(qkv, cos, sin, slots, kv)

    x = qkv[:, : query_heads + kv_heads].double()
    swapped = x.roll(d // 2, dims=-1)
    exact = x * cos.double() + swapped * sin.double()
    bound = ROUND * exact.abs() + 3 * ROUND32 * ((x * cos).abs() + (swapped * sin).abs())
    flat = kv.flatten(2, 3)
    assert torch.equal(qkv, before)
    assert within(queries, exact[:, :query_heads], bound[:, :query_heads])
    assert within(flat[0, :, slots].transpose(0, 1), exact[:, query_heads:], bound[:, query_heads:])
    assert torch.equal(flat[1, :, slots].transpose(0, 1), qkv[:, query_heads + kv_heads :])
    others = torch.ones(16 * PAGE_SIZE, dtype=torch.bool)
    others[slots] = False
    assert torch.equal(flat[:, :, others], untouched[:, :, others])


@pytest.mark.parametrize("slot", [-1, 4 * PAGE_SIZE])
def test_refuses_slots_outside_the_cache(kernels: NativeKernels, slot: int) -> None:
    kv = torch.zeros(2, 1, 4, PAGE_SIZE, 32, dtype=torch.bfloat16)
    cos, sin = RotaryTable(32, 8, 1e4, torch.bfloat16).at(torch.arange(2))
    with pytest.raises(IndexError, match="outside the cache"):
        kernels.rotate_and_store(noise(1, 2, 3, 32), cos, sin, torch.tensor([0, slot]), kv)
    assert not kv.any()


# --- the whole model ---


@pytest.mark.smollm2
@pytest.mark.parametrize("chunks", [(), (16, 30, 1, 1, 1)], ids=["at once", "in chunks"])
def test_smollm2_no_farther_from_the_truth_than_torch(
    kernels: NativeKernels, smollm2: Checkpoint, chunks: tuple[int, ...]
) -> None:
    config, tokens = (
        smollm2.config,
        torch.randint(0, 40_000, (90,), generator=torch.Generator().manual_seed(2)).tolist(),
    )
    weights = {name: tensor.bfloat16() for name, tensor in smollm2.tensors().items()}
    truth = base_logits(KANModel(config, weights, dtype=torch.float64), tokens)
    model = KANModel(config, weights, dtype=torch.bfloat16)
    errors = {}
    for name, chosen in {"torch": TorchKernels(), "native": kernels}.items():
        model.kernels = chosen
        errors[name] = float((base_logits(model, tokens, chunks).double() - truth).square().mean().sqrt())
    assert errors["native"] <= 1.1 * errors["torch"]


# --- the library itself ---


def test_one_openmp_runtime(kernels: NativeKernels) -> None:
    """Ours is torch's: a second team of threads would slow every step down."""
    program = (
        "import torch\nfrom kan.kernels import native\nnative.library()\nprint(*native._openmp_runtimes(), sep='\\n')\n"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert len(found) == 1
    assert Path(found[0]).is_relative_to(Path(torch.__file__).resolve().parent)


def compiled(tmp_path: Path, *options: str) -> ctypes.CDLL:
    target = tmp_path / "native.so"
    flags = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-fopenmp", "-Wall", "-Wextra", "-Werror", *options]
    subprocess.run([str(COMPILER), *flags, *map(str, SOURCES), "-o", str(target), "-lm"], check=True)
    return ctypes.CDLL(str(target))


@needs_compiler
def test_compiles_without_warnings(tmp_path: Path) -> None:
    assert compiled(tmp_path).kg_abi() == native.ABI


@needs_compiler
def test_compiles_for_other_processors(tmp_path: Path) -> None:
    other = compiled(tmp_path, "-U__x86_64__")
    assert other.kg_abi() == native.ABI
    assert not other.kg_supported()


@pytest.mark.parametrize(
    ("dtype", "shape", "reason"),
    [
        (torch.float32, {"head_dim": 64}, "bfloat16, not float32"),
        (torch.bfloat16, {"head_dim": 48}, "head_dim 48"),
        (torch.bfloat16, {"head_dim": 288}, "head_dim 288"),
        (torch.bfloat16, {"head_dim": 64, "hidden_size": 40}, "hidden_size 40"),
        (torch.bfloat16, {"head_dim": 64, "intermediate_size": 7}, "intermediate_size 7"),
    ],
)
def test_models_it_cannot_compute(dtype: torch.dtype, shape: dict[str, Any], reason: str) -> None:
    config = tiny_config(**shape)
    assert choose_kernels("auto", config, dtype).name == "torch"
    with pytest.raises(KernelsUnavailable, match=reason):
        choose_kernels("native", config, dtype)


@pytest.mark.parametrize("abi", [native.ABI + 1, None], ids=["other", "none"])
def test_a_stale_library_is_refused(monkeypatch: pytest.MonkeyPatch, abi: int | None, kernels: NativeKernels) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "ABI", abi)
    with pytest.raises(KernelsUnavailable, match="built from other sources"):
        native.library()


def test_a_library_with_other_pages_is_refused(monkeypatch: pytest.MonkeyPatch, kernels: NativeKernels) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "PAGE_SIZE", 2 * PAGE_SIZE)
    with pytest.raises(KernelsUnavailable, match="pages hold 16 tokens, not 32"):
        native.library()


def test_no_library_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    monkeypatch.setattr(native, "EXTENSION_SUFFIXES", [".none"])
    config = tiny_config(head_dim=64)
    assert choose_kernels("auto", config, torch.bfloat16).name == "torch"
    with pytest.raises(KernelsUnavailable, match="not built"):
        choose_kernels("native", config, torch.bfloat16)


def test_the_choice(kernels: NativeKernels) -> None:
    native.library.cache_clear()
    config = tiny_config(head_dim=64)
    assert choose_kernels("auto", config, torch.bfloat16).name == "native"
    assert choose_kernels("torch", config, torch.bfloat16).name == "torch"
