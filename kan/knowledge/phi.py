"""φ: the learned bias of Eq. 1, a Kolmogorov-Arnold function of how well each mounted fact fits the question.

    φ[l, h](fact) = Σ_f  s[l, h, f](x_f)        s: a univariate spline, one per layer, head and feature

Features x_f of a fact among m mounted ones, with relevance r = ρ(question)·ρ(fact):

    relevance       r
    lead            r - max r over the other facts: minus the gap to the best, and for the best its lead on the next
    log_count       log m
    bridge          how well the fact fits what the best fact adds to the question
    rest            how well it fits what the best fact leaves of the question
    lexical         the share of the question's words that the fact has
    lexical_lead    the same as lead, of lexical
    agreement       how high both rank it: the mean of 1 / rank by relevance and 1 / rank by lexical
    log_length      log of its characters: a short fact or a passage

relevance, bridge, rest, lexical and length are a fact's `Fit` (`kan.knowledge.fit`).

A spline is piecewise linear over evenly spaced knots (a sum of hat functions) and constant beyond the ends, so an
input outside the range seen in training cannot blow up. A fact that is alone leads without limit. All-zero
coefficients mean no bias.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kan.config import KANConfig
from kan.knowledge.adapter import Adapter
from kan.knowledge.fit import Fit

Floats = NDArray[Any]
"""float32 or float64."""

RANGES: dict[str, tuple[float, float]] = {
    "relevance": (-0.2, 1.0),
    "lead": (-0.5, 0.3),
    "log_count": (0.0, math.log(64.0)),
    "bridge": (-0.4, 1.2),
    "rest": (-0.4, 1.2),
    "lexical": (0.0, 1.0),
    "lexical_lead": (-1.0, 1.0),
    "agreement": (0.0, 1.0),
    "log_length": (math.log(16.0), math.log(2048.0)),
}
FEATURES = tuple(RANGES)
KNOTS = 17
"""One of them at exactly 0 of both leads, bridge and rest."""
FORMAT = "kalmagrove-phi-2"
GAP_SLOPE = 30.0
GAP_FLOOR = 6.0


class PhiError(Exception):
    """A φ file that cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class Phi:
    """coefficients [layers, heads, features, knots] float32, in the units of q·k (before the 1/√d of Eq. 1).

    adapter     what was trained with it for the keys and values of knowledge, if anything
    """

    coefficients: Tensor
    model_fingerprint: str = ""
    encoder_fingerprint: str = ""
    adapter: Adapter | None = None

    @property
    def is_zero(self) -> bool:
        return self.adapter is None and not bool(self.coefficients.any())

    @property
    def digest(self) -> str:
        """Names this φ: for cache salts and the file's own checksum."""
        found = hashlib.sha256()
        for tensor in self.tensors().values():
            found.update(tensor.contiguous().numpy().tobytes())
        return found.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """By their names in a file."""
        return {"coefficients": self.coefficients, **({} if self.adapter is None else self.adapter.tensors())}

    def __call__(self, fits: Sequence[Fit]) -> Tensor:
        """The fits of m mounted facts -> φ [layers, heads, m]. Differentiable in the coefficients."""
        # NumPy for what is small: every request waits for it, and torch takes longer to start than to compute.
        table = np.array(fits, np.float64 if self.coefficients.dtype == torch.float64 else np.float32)
        basis = hat_basis(features(table.reshape(-1, len(Fit._fields))), self.coefficients.shape[-1])
        values: Tensor = self.coefficients.flatten(2) @ torch.from_numpy(basis).flatten(1).T
        return values


def zero_phi(num_layers: int, num_heads: int, knots: int = KNOTS) -> Phi:
    return Phi(torch.zeros(num_layers, num_heads, len(FEATURES), knots))


def gap_phi(num_layers: int, num_heads: int, head_dim: int, knots: int = KNOTS) -> Phi:
    """A φ that nobody trained: facts behind the best one lose attention in proportion to their gap.

    It multiplies the attention weight of a fact whose gap is x by exp(-GAP_SLOPE · x), and by no less than
    exp(-GAP_FLOOR): a retriever's ranking, told to the model. The same in every layer and head.
    """
    phi = zero_phi(num_layers, num_heads, knots)
    low, high = RANGES["lead"]
    gaps = -torch.linspace(low, high, knots)
    weight = torch.clamp(GAP_SLOPE * gaps, min=0.0, max=GAP_FLOOR)
    phi.coefficients[:, :, FEATURES.index("lead")] = -math.sqrt(head_dim) * weight
    return phi


def features(fits: Floats) -> Floats:
    """fits [m, fields of `Fit`] -> [m, features], each mapped to [0, 1] by its range."""
    relevance, bridge, rest, lexical, length = fits.T
    raw = {
        "relevance": relevance,
        "lead": _lead(relevance),
        "log_count": np.full_like(relevance, math.log(max(len(relevance), 1))),
        "bridge": bridge,
        "rest": rest,
        "lexical": lexical,
        "lexical_lead": _lead(lexical),
        "agreement": (1 / _rank(relevance) + 1 / _rank(lexical)) / 2,
        "log_length": np.log(np.maximum(length, 1.0)),
    }
    columns = np.stack([raw[name] for name in FEATURES], axis=-1)
    low, high = np.array(list(RANGES.values()), columns.dtype).T
    scaled: Floats = np.clip((columns - low) / (high - low), 0, 1)
    return scaled


def _rank(values: Floats) -> Floats:
    """1 for the greatest; equals rank alike."""
    ranks: Floats = 1.0 + (values[None, :] > values[:, None]).sum(axis=1, dtype=values.dtype)
    return ranks


def _lead(values: Floats) -> Floats:
    """What each is above the greatest other."""
    if len(values) < 2:
        return np.full_like(values, np.inf)
    second, first = np.partition(values, -2)[-2:]
    best_other = np.where(np.arange(len(values)) == values.argmax(), second, first)
    lead: Floats = values - best_other
    return lead


def hat_basis(x: Floats, knots: int) -> Floats:
    """x [...] in [0, 1] -> [..., knots]: weights of the two nearest knots; they sum to 1."""
    centres = np.arange(knots, dtype=x.dtype)
    weights: Floats = np.maximum(1 - np.abs(x[..., None] * (knots - 1) - centres), 0)
    return weights


def save_phi(phi: Phi, path: Path) -> None:
    metadata = {
        **_layout(),
        "model_fingerprint": phi.model_fingerprint,
        "encoder_fingerprint": phi.encoder_fingerprint,
        "sha256": phi.digest,
    }
    save_file({name: tensor.contiguous() for name, tensor in phi.tensors().items()}, path, metadata)


def load_phi(path: Path, config: KANConfig, *, model_fingerprint: str, encoder_fingerprint: str) -> Phi:
    """Read and check a φ file. PhiError names the file and what is wrong with it.

    An empty fingerprint in the file fits any model (or encoder): such a φ was not trained for one.
    """
    phi, metadata = _read(path)
    if any(metadata.get(name) != value for name, value in _layout().items()):
        raise PhiError(f"{path}: not a φ file of this version ({FORMAT}, features {', '.join(FEATURES)})")
    if metadata.get("sha256") != phi.digest or not all(bool(one.isfinite().all()) for one in phi.tensors().values()):
        raise PhiError(f"{path}: φ is damaged (checksum of its coefficients does not match)")
    if phi.coefficients.shape[:3] != (config.num_layers, config.num_heads, len(FEATURES)):
        raise PhiError(
            f"{path}: φ has shape {tuple(phi.coefficients.shape)}; this model needs "
            f"({config.num_layers}, {config.num_heads}, {len(FEATURES)}, knots)"
        )
    if phi.adapter is not None and not phi.adapter.fits(config):
        raise PhiError(f"{path}: its adapter is of another shape than this model needs")
    if phi.adapter is not None and config.group_order > 1:
        raise PhiError(f"{path}: an adapter would break the symmetry of this model ({config.group})")
    for what, found, wanted in (
        ("model", phi.model_fingerprint, model_fingerprint),
        ("encoder", phi.encoder_fingerprint, encoder_fingerprint),
    ):
        if found and found != wanted:
            raise PhiError(f"{path}: φ was trained for another {what} (fingerprint {found[:12]}, not {wanted[:12]})")
    return phi


def _layout() -> dict[str, str]:
    """What the coefficients' axes mean: a file that says otherwise is another kind of φ."""
    return {"format": FORMAT, "features": json.dumps(FEATURES), "ranges": json.dumps(list(RANGES.values()))}


def _read(path: Path) -> tuple[Phi, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            adapter = Adapter.from_tensors(tensors)
    except FileNotFoundError:
        raise PhiError(f"{path}: no such φ file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise PhiError(f"{path}: φ is damaged or not a safetensors file ({error})") from None
    coefficients = tensors.get("coefficients", torch.empty(0))
    if coefficients.ndim != 4:
        raise PhiError(f"{path}: φ coefficients must have 4 dimensions, not {coefficients.ndim}")
    fingerprints = metadata.get("model_fingerprint", ""), metadata.get("encoder_fingerprint", "")
    return Phi(coefficients, *fingerprints, adapter), metadata
