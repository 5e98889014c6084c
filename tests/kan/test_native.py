"""The compiled kernels against the formulas in float64, on the same bfloat16 input.

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
from dataclasses import dataclass, replace
from pathlib import Path

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
from kan.kernels.operations import TorchKernels
from kan.model import KANModel
from kan.rope import RotaryTable
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


@pytest.fixture(scope="module")
def kernels() -> NativeKernels:
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor has no AVX-512 BF16")
    if COMPILER is None:
        pytest.skip("no C compiler here, so there is nothing compiled")
    return NativeKernels(tiny_config(head_dim=64), torch.bfloat16)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def noise(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def within(found: Tensor, exact: Tensor, bound: Tensor) -> bool:
    """Every number of `found` is finite, and no farther from `exact` than `bound` allows."""
    return bool(found.isfinite().all()) and bool(((found.double() - exact).abs() <= bound + TINY).all())


# --- attention ---


@dataclass(frozen=True)
class Case:
    """Input of one attention call."""

    q: Tensor
    kv: Tensor
    pages: Tensor
    mask: Tensor
    phi: Tensor | None
    known: int

    def run(self, kernels: NativeKernels) -> tuple[Tensor, Tensor]:
        """Output, and mass on top of ones."""
        mass = torch.ones(len(self.q), self.known)
        return kernels.attention(self.q, self.kv, self.pages, self.mask, self.phi, mass), mass


@dataclass(frozen=True)
class Truth:
    """What the case's results are exactly, and how far from it they may be."""

    out: Tensor
    mass: Tensor
    out_bound: Tensor
    mass_bound: Tensor

    @classmethod
    def of(cls, case: Case) -> Truth:
        sequences, _, heads, d = case.q.shape
        columns = case.mask.shape[-1]
        kv = case.kv[:, :, case.pages].flatten(3, 4).double().repeat_interleave(heads // case.kv.shape[1], dim=1)
        keys, values = kv[0], kv[1]  # [H, S, C, d]
        phi = torch.zeros(heads, sequences, 1, columns, dtype=torch.float64)
        if case.phi is not None:
            phi[..., : case.known] = case.phi.double().unsqueeze(2)
        q = case.q.double().permute(2, 0, 1, 3)
        scores = (q @ keys.transpose(2, 3) + phi) / d**0.5 + case.mask.double()
        weights = torch.softmax(scores, dim=-1)
        # A score is a sum of d products, φ and the mask; then its distance from the largest goes into an exponential.
        steps = (d + 4) * (q.abs() @ keys.abs().transpose(2, 3)) + 4 * phi.abs()
        slip = ROUND32 * (steps / d**0.5 + 8)
        slip = torch.where(weights > 0, slip, 0)
        slip = slip + (weights * slip).sum(-1, keepdim=True) + ROUND32 * (columns / 16 + 16)
        out = (weights @ values).permute(1, 2, 0, 3)
        drift = (weights * (slip + ROUND + ROUND32 * columns)) @ values.abs()
        last = weights[:, :, -1, : case.known]
        return cls(
            out=out,
            mass=1 + last.sum(0),
            out_bound=drift.permute(1, 2, 0, 3) * (1 + ROUND) + ROUND * out.abs(),
            mass_bound=(last * slip[:, :, -1, : case.known]).sum(0) + ROUND32 * (heads + 1) * (1 + last.sum(0)),
        )


def case(
    seed: int, sequences: int, n: int, kv_heads: int, group: int, d: int, table: int, known: int, bias: float | None
) -> Case:
    """Pages in any order and shared; every sequence of a length of its own, padded; holes among the known columns.

    `bias` is the deviation of φ; half of it is -inf if that is infinite; None for no φ.
    """
    generator = torch.Generator().manual_seed(seed)
    heads, columns, cached = kv_heads * group, table * PAGE_SIZE, 2 * table + 1
    own = torch.arange(columns) - (columns - n)
    mask = torch.where(own <= torch.arange(n)[:, None], 0.0, -torch.inf).repeat(sequences, 1, 1)
    for s in range(sequences):
        shorter = int(torch.randint(0, columns - n + 1, (), generator=generator))
        mask[s] = torch.cat((mask[s, :, shorter:], torch.full((n, shorter), -torch.inf)), dim=1)
    holes = torch.rand(sequences, 1, known, generator=generator) < 0.3
    holes[..., 0] = False
    mask[..., :known].masked_fill_(holes, -torch.inf)
    mask[..., 0] = 0  # every row sees something
    phi = None
    if bias is not None:
        phi = torch.randn(heads, sequences, known, generator=generator) * (8 if bias == torch.inf else bias)
        if bias == torch.inf:
            phi[..., 1:].masked_fill_(torch.rand(heads, sequences, known - 1, generator=generator) < 0.5, -torch.inf)
    return Case(
        q=noise(seed, sequences, n, heads, d, scale=2),
        kv=noise(seed + 1, 2, kv_heads, cached, PAGE_SIZE, d),
        pages=torch.randint(0, cached, (sequences, table), generator=generator),
        mask=mask,
        phi=phi,
        known=known,
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    table = draw(st.integers(1, 9))
    columns = table * PAGE_SIZE
    return case(
        seed=draw(st.integers(0, 2**31)),
        sequences=draw(st.integers(1, 4)),
        n=draw(st.integers(1, min(columns, 40))),
        kv_heads=draw(st.sampled_from([1, 2, 3])),
        group=draw(st.integers(1, 4)),
        d=draw(st.sampled_from([32, 64, 96, 128, 256])),
        table=table,
        known=draw(st.integers(1, columns)),
        bias=draw(st.sampled_from([None, 1.0, 20.0, 1e4, torch.inf])),
    )


@settings(max_examples=150)
@given(drawn=cases())
def test_attention(kernels: NativeKernels, drawn: Case) -> None:
    out, mass = drawn.run(kernels)
    truth = Truth.of(drawn)
    assert within(out, truth.out, truth.out_bound)
    assert within(mass, truth.mass, truth.mass_bound)


LONG = {
    "decoding": (8, 1, 64, 300),
    "prefill": (1, 200, 64, 260),
    "wide": (1, 70, 128, 150),
    "very long": (1, 3, 32, 5000),
}


@pytest.mark.parametrize("shape", LONG.values(), ids=LONG)
@pytest.mark.parametrize("bias", [None, 5.0], ids=["plain", "phi"])
def test_attention_over_thousands_of_columns(
    kernels: NativeKernels, shape: tuple[int, int, int, int], bias: float | None
) -> None:
    sequences, n, d, table = shape
    long = case(3, sequences, n, 1, 3, d, table, known=table * 5, bias=bias)
    out, mass = long.run(kernels)
    truth = Truth.of(long)
    assert within(out, truth.out, truth.out_bound)
    assert within(mass, truth.mass, truth.mass_bound)


def test_softmax_is_exact_to_float32(kernels: NativeKernels) -> None:
    """With no products, weights are softmax(φ / √d) alone: the exponential has nothing to hide behind."""
    phi = torch.linspace(-700, 0, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(1))]
    mass = torch.zeros(1, 512)
    q, kv = torch.zeros(1, 1, 1, 64).bfloat16(), noise(1, 2, 1, 32, PAGE_SIZE, 64)
    kernels.attention(q, kv, torch.arange(32)[None], torch.zeros(1, 1, 512), phi.view(1, 1, 512), mass)
    exact = torch.softmax(phi.double() / 8, dim=-1)
    # φ/8 and its distance from the largest are rounded to at most ROUND32 · 87.5; the rest are a few operations.
    assert within(mass[0], exact, exact * ROUND32 * (phi.double().abs() / 8 + 16))


def test_attention_without_knowledge(kernels: NativeKernels) -> None:
    plain = replace(case(5, 2, 4, 3, 3, 64, 4, known=1, bias=None), known=0)
    out, mass = plain.run(kernels)
    truth = Truth.of(plain)
    assert mass.shape == (2, 0)
    assert within(out, truth.out, truth.out_bound)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n", [1, 5, 64])
def test_same_bits_every_time_and_with_any_number_of_threads(kernels: NativeKernels, n: int) -> None:
    repeated = case(11, 3, n, 3, 3, 64, 30, known=300, bias=3.0)
    results = []
    for count in (1, 2, 1, 2, 2, 3):
        torch.set_num_threads(count)
        results.append(repeated.run(kernels))
    assert all(torch.equal(out, results[0][0]) and torch.equal(mass, results[0][1]) for out, mass in results)


def test_a_row_does_not_depend_on_its_company(kernels: NativeKernels) -> None:
    """Rows of a prefill, one at a time and with columns cut off that they may not see: the same bits."""
    whole = case(13, 1, 40, 2, 3, 64, 6, known=20, bias=2.0)
    out, _ = whole.run(kernels)
    for row in (0, 7, 39):
        alone = replace(whole, q=whole.q[:, row : row + 1].clone(), mask=whole.mask[:, row : row + 1].clone())
        assert torch.equal(alone.run(kernels)[0][:, 0], out[:, row])


def test_what_is_masked_does_not_matter(kernels: NativeKernels) -> None:
    padded = case(17, 2, 3, 2, 2, 64, 5, known=32, bias=1.0)
    padded.mask[..., 48:] = -torch.inf  # pages 3 and 4 are padding
    padded.mask[..., 5:9] = -torch.inf
    order = torch.arange(10).view(2, 5)
    padded = replace(padded, pages=order)
    out, mass = padded.run(kernels)
    hostile = padded.kv.clone()
    hostile[:, :, order[:, 3:].flatten()] = 3e38
    hostile[:, :, order[:, 0], 5:9] = -1e30
    again, mass_again = replace(padded, kv=hostile).run(kernels)
    assert torch.equal(out, again)
    assert torch.equal(mass, mass_again)
    assert (mass[:, 5:9] == 1).all()


def test_a_row_that_sees_nothing_is_nan_as_in_torch(kernels: NativeKernels) -> None:
    blind = case(19, 1, 2, 1, 1, 32, 2, known=4, bias=None)
    blind.mask[0, 0] = -torch.inf
    out, _ = blind.run(kernels)
    assert out[0, 0].isnan().all()
    assert out[0, 1].isfinite().all()


@pytest.mark.parametrize("page", [-1, 11, 2**40])
def test_refuses_pages_outside_the_cache(kernels: NativeKernels, page: int) -> None:
    wrong = case(23, 1, 2, 1, 1, 32, 5, known=4, bias=None)
    wrong.pages[0, 3] = page
    with pytest.raises(IndexError, match="outside the cache"):
        wrong.run(kernels)


@pytest.mark.parametrize("part", ["q", "mask", "pages"])
def test_refuses_tensors_of_another_type(kernels: NativeKernels, part: str) -> None:
    good = case(29, 1, 2, 1, 1, 32, 5, known=4, bias=None)
    tensor = getattr(good, part)
    for wrong in (tensor.double(), tensor.repeat_interleave(2, dim=-1)[..., ::2], tensor[..., :-1].contiguous()):
        with pytest.raises(ValueError, match="expected"):
            replace(good, **{part: wrong}).run(kernels)


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
def test_models_it_cannot_compute(dtype: torch.dtype, shape: dict[str, int], reason: str) -> None:
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
