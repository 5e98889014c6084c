"""Which kernels compute a model."""

from __future__ import annotations

import logging

import torch

from kan.config import KANConfig
from kan.kernels import KernelsName
from kan.kernels.native import KernelsUnavailable, NativeKernels
from kan.kernels.operations import Kernels
from kan.kernels.torch_kernels import TorchKernels

log = logging.getLogger(__name__)


def choose_kernels(name: KernelsName, config: KANConfig, dtype: torch.dtype) -> Kernels:
    """`auto`: native where they can be used, else torch's, with the reason in the log.

    KernelsUnavailable, a ValueError with the reason, if `native` was asked for and cannot be had.
    """
    if name == "torch":
        return TorchKernels()
    try:
        return NativeKernels(config, dtype)
    except KernelsUnavailable as reason:
        if name == "native":
            raise KernelsUnavailable(f"native kernels: {reason}") from None
        log.info("torch computes everything; no native kernels: %s", reason)
        return TorchKernels()
