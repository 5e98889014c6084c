"""`Kernels` in C (the sources are in `c/`), for bfloat16 on processors with AVX-512 BF16.

The library is optional: `pip install` builds it where there is a C compiler. It must share torch's OpenMP threads: a
second team in the process would slow every step down (`cpu/threads.py`). It does, because it asks for the same
`libgomp.so.1` that torch, imported first, has brought along.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import c_float, c_int64, c_void_p
from functools import cache, partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from cpu.linear import Linear
from kan.attention import PAGE_SIZE
from kan.config import KANConfig
from kan.kernels.block_means import BlockMeans
from kan.kernels.native_attention import NativeAttention, Routing
from kan.kernels.operations import Cache, Product
from kan.kernels.paged_cache import PagedCache
from kan.kernels.small_pages import CacheLayer, step_shapes
from kan.patterns import SqrtBlocks, pattern_of
from kan.quantization import Bits

ABI = 8
"""KG_ABI of c/vectors.h. A library built from other sources is refused."""
MAX_HEAD_DIM = 256
BLOCK_OUTPUTS = 32
"""WIDTH of c/linear.c."""

Function = Callable[..., int]


class KernelsUnavailable(ValueError):
    """The native kernels cannot be used here; the message says why."""


class NativeKernels:
    """`Kernels` of the compiled library.

    It is handed bare addresses, so every tensor's type and shape are checked here, and page numbers and slots there.
    Raises KernelsUnavailable if there is no library that can be used, or if it cannot compute this model.
    """

    name = "native"

    def __init__(self, config: KANConfig, dtype: torch.dtype, *, tiles: bool = True) -> None:
        """`tiles`: multiply by the processor's matrix unit (AMX) if it has one."""
        check_model(config, dtype)
        path = library()
        # The longer functions let other Python threads run meanwhile. The shortest do not: to get the interpreter's
        # lock back could take many times as long as they do.
        long, short = ctypes.CDLL(path), ctypes.PyDLL(path)
        self.tiles = tiles and bool(short.kg_tiles())
        self._attention = _function(long.kg_attention, [c_void_p] * 10 + [c_int64] * 9)
        self._swiglu = _function(long.kg_swiglu, [c_void_p, c_int64, c_int64, c_void_p])
        self._linear = _function(long.kg_linear, [c_void_p] * 4 + [c_int64] * 4 + [c_void_p])
        self._pack_linear = _function(long.kg_pack_linear, [c_void_p, c_int64, c_int64, c_void_p])
        self._rms_norm = _function(short.kg_rms_norm, [c_void_p, c_void_p, c_int64, c_int64, c_float, c_void_p])
        self._rotate_and_store = _function(short.kg_rotate_and_store, [c_void_p] * 6 + [c_int64] * 5)

    def new_cache(self, config: KANConfig, pages: int, dtype: torch.dtype, small_bits: Bits = 8) -> Cache:
        pattern = pattern_of(config)
        means = BlockMeans(config, pattern, pages, dtype) if isinstance(pattern, SqrtBlocks) else None
        return PagedCache(config, pattern, pages, dtype, partial(NativeAttention, self, means), small_bits)

    def attention(
        self,
        q: Tensor,
        cache: CacheLayer,
        sequences: Tensor,
        table: Tensor,
        phi: Tensor | None,
        mass: Tensor,
        routing: Routing | None = None,
    ) -> Tensor:
        """q [R, H, d] -> [R, H, d].

        sequences [S, 9] and table [B, 4] int64 as `Sequence` and `Block` of c/blocks.h; phi [H, parts] float32 or
        None; mass [parts] float32, added to; `routing` is needed where rows choose blocks. IndexError for a page
        outside the cache, and for rows that have too few blocks to choose from.
        """
        rows, heads, d = q.shape
        kv_heads, cache_pages, parts = cache.kv.shape[1], cache.kv.shape[2], len(mass)
        out = torch.empty_like(q)
        of_keys, of_values = step_shapes(cache.kv, cache.bits)
        means, levels, smallest = None, 0, 0
        if routing is not None:
            levels, smallest = len(routing.means), routing.smallest
            means = _address(routing.means, torch.float32, (levels, kv_heads, cache_pages, d))
        failure = self._attention(
            _address(q, torch.bfloat16, (rows, heads, d)),
            _address(cache.kv, torch.bfloat16, (2, kv_heads, cache_pages, PAGE_SIZE, d)),
            _address(cache.key_steps, torch.bfloat16, of_keys),
            _address(cache.value_steps, torch.bfloat16, of_values),
            _address(sequences, torch.int64, (len(sequences), 9)),
            _address(table, torch.int64, (len(table), 4)),
            None if phi is None else _address(phi, torch.float32, (heads, parts)),
            _address(mass, torch.float32, (parts,)),
            out.data_ptr(),
            means,
            *(len(sequences), heads, kv_heads, d, cache_pages, parts, levels, smallest, cache.bits),
        )
        if failure:
            raise _ERRORS[failure]("attention")
        return out

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = True) -> Product:
        outputs, inputs = weight.shape
        if not packed or outputs % BLOCK_OUTPUTS or inputs % 2 or weight.dtype != torch.bfloat16:
            return Linear(weight, bias, packed=packed)
        weight = weight.contiguous()
        blocks = torch.empty_like(weight)
        self._pack_linear(weight.data_ptr(), outputs, inputs, blocks.data_ptr())
        return NativeLinear(self._linear, blocks, bias, tiles=self.tiles)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows, width = x.shape
        out = torch.empty_like(x)
        address = _address(x, torch.bfloat16, (rows, width))
        self._rms_norm(address, _address(weight, torch.bfloat16, (width,)), rows, width, eps, out.data_ptr())
        return out

    def rotate_and_store(self, qkv: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, kv: Tensor) -> Tensor:
        """As `kan.kernels.paged_cache.rotate_and_store`. IndexError for a slot outside the cache."""
        rows, planes, d = qkv.shape
        kv_heads, pages = kv.shape[1], kv.shape[2]
        heads = planes - 2 * kv_heads
        out = torch.empty((rows, heads, d), dtype=qkv.dtype)
        failure = self._rotate_and_store(
            _address(qkv, torch.bfloat16, (rows, planes, d)),
            _address(cos, torch.float32, (rows, 1, d)),
            _address(sin, torch.float32, (rows, 1, d)),
            _address(slots, torch.int64, (rows,)),
            _address(kv, torch.bfloat16, (2, kv_heads, pages, PAGE_SIZE, d)),
            out.data_ptr(),
            *(rows, heads, kv_heads, d, pages * PAGE_SIZE),
        )
        if failure:
            raise _ERRORS[failure]("rotate_and_store")
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((rows, width), dtype=gate_up.dtype)
        self._swiglu(_address(gate_up, torch.bfloat16, (rows, 2 * width)), rows, width, out.data_ptr())
        return out


class NativeLinear:
    """`Product` of the compiled library. A row's result does not depend on how many others it is computed with."""

    def __init__(self, function: Function, blocks: Tensor, bias: Tensor | None, *, tiles: bool) -> None:
        """`blocks` [out, in] holds the weight as `kg_pack_linear` lays it out; `tiles` as `kg_linear` takes it."""
        self._function = function
        self._outputs, self._inputs = blocks.shape
        self._tiles = int(tiles)
        self._blocks, self._weight = blocks, blocks.data_ptr()
        self._bias = None if bias is None else bias.contiguous()
        self._bias_address = None if self._bias is None else _address(self._bias, torch.bfloat16, (self._outputs,))

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x, None)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._product(x, _address(residual, torch.bfloat16, (len(x), self._outputs)))

    def _product(self, x: Tensor, residual: int | None) -> Tensor:
        rows, inputs, outputs = len(x), self._inputs, self._outputs
        out = torch.empty((rows, outputs), dtype=torch.bfloat16)
        address = _address(x, torch.bfloat16, (rows, inputs))
        shape = (rows, inputs, outputs, self._tiles)
        self._function(address, self._weight, self._bias_address, residual, *shape, out.data_ptr())
        return out


def _out_of_range(function: str) -> Exception:
    return IndexError(f"{function}: a page or slot outside the cache, or too few blocks to choose from")


def _no_memory(function: str) -> Exception:
    return MemoryError(f"{function}: no memory for scratch space")


_ERRORS = {1: _out_of_range, 2: _no_memory}
"""By the codes of c/vectors.h."""


def check_model(config: KANConfig, dtype: torch.dtype) -> None:
    """KernelsUnavailable if this model, in this dtype, is none for the native kernels."""
    if dtype != torch.bfloat16:
        raise KernelsUnavailable(f"they compute in bfloat16, not {str(dtype).removeprefix('torch.')}")
    if config.group_order > 1:
        raise KernelsUnavailable(f"they compute ordinary layers only, not those of {config.group}")
    if config.head_dim % 32 or config.head_dim > MAX_HEAD_DIM:
        raise KernelsUnavailable(f"head_dim {config.head_dim} is no multiple of 32 up to {MAX_HEAD_DIM}")
    for field in ("hidden_size", "intermediate_size"):
        if getattr(config, field) % 16:
            raise KernelsUnavailable(f"{field} {getattr(config, field)} is no multiple of 16")


@cache
def library() -> str:
    """Path of the compiled library, once it is known to be usable here. KernelsUnavailable otherwise."""
    built = [path for suffix in EXTENSION_SUFFIXES if (path := Path(__file__).with_name(f"_native{suffix}")).exists()]
    if not built:
        raise KernelsUnavailable("the library is not built (`make install` builds it where there is a C compiler)")
    before = _openmp_runtimes()
    try:
        loaded = ctypes.CDLL(str(built[0]))
        abi = loaded.kg_abi()
    except (OSError, AttributeError) as error:
        raise KernelsUnavailable(f"the library cannot be loaded: {error}") from error
    if abi != ABI:
        raise KernelsUnavailable(f"{built[0].name} was built from other sources (ABI {abi}, not {ABI}); reinstall")
    if not loaded.kg_supported():
        raise KernelsUnavailable("this processor, or the compiler that built the library, has no AVX-512 BF16")
    if loaded.kg_page_size() != PAGE_SIZE:
        raise KernelsUnavailable(f"the library's pages hold {loaded.kg_page_size()} tokens, not {PAGE_SIZE}")
    if _openmp_runtimes() != before:
        raise KernelsUnavailable("the library would bring a second OpenMP runtime besides torch's")
    return str(built[0])


def _openmp_runtimes() -> set[str]:
    """Files of the OpenMP runtimes in this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "libgomp" in line or "libomp" in line or "libiomp" in line}


def _function(function: Function, types: Sequence[type]) -> Function:
    function.argtypes = types  # type: ignore[attr-defined]
    return function


def _address(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    if tensor.dtype is not dtype or tensor.shape != shape or not tensor.is_contiguous():
        kind = "contiguous" if tensor.is_contiguous() else "strided"
        raise ValueError(f"expected {dtype} {shape}, contiguous, not {kind} {tensor.dtype} {tuple(tensor.shape)}")
    return tensor.data_ptr()
