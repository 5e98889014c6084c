"""From one row of logits to one token.

Order of operations: logit bias, repetition penalty (prompt and generated tokens), presence and frequency
penalties (generated tokens only), what a grammar allows, temperature, then top-k, top-p, min-p. Log
probabilities come from the untouched row; under a grammar from what it allows of that, as vLLM has it: the rest could
not have come, so a token that had to come has probability 1.

Randomness is one float64 uniform per sampled token and the inverse of the cumulative distribution over a
fixed order of candidates: with top-k or top-p by descending logit, ties by id; without them by id. So a
seeded request gets the same tokens whatever else is in its batch, and however often it is preempted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from server.engine.decoding.penalties import LogitAdjustment
from server.engine.protocol import SamplingParams, TokenLogprob

FIRST_CANDIDATES = 256
"""How many of the best logits a nucleus is first looked for in: a full sort costs 20 times more."""
CANDIDATES_GROWTH = 8


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A chosen token and, where the request asked for it, its log probability."""

    token_id: int
    logprob: TokenLogprob | None


class Sampler:
    """One request's way to pick tokens: its parameters, its random source, and what its penalties have seen.

    Create it when the request is accepted and keep it until the request ends, preemption included.
    Used by one thread at a time.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        """`params` must have passed `check_sampling`; the repetition penalty counts `prompt` as said."""
        self._params = params
        self._adjustment = LogitAdjustment(params, prompt)
        self._random = None if params.temperature == 0 else _random_source(params.seed)

    @property
    def plain_greedy(self) -> bool:
        """True if `greedy` over a whole batch gives what `sample` would; then `sample` need not be called."""
        return self._random is None and not self._adjustment.active and not self._params.logprobs

    @property
    def tells_logprob(self) -> bool:
        """Whether the chosen token's log probability is asked for."""
        return self._params.logprobs is not None

    def sample(self, logits: torch.Tensor, allowed: NDArray[np.bool_] | None = None) -> SampledToken:
        """Pick from `logits` (float32 [vocab], left as they are) and remember the token for the penalties.

        `allowed` (bool [vocab], one at least is true): no other token is picked. Raises FloatingPointError if the row
        holds NaN: no token could be right.
        """
        raw = _as_array(logits)
        values = self._adjustment.apply(raw)
        if allowed is not None:
            values = _only(allowed, values)
        token_id = int(values.argmax())  # the lowest id among equals; a NaN, if there is one
        if allowed is not None and not allowed[token_id]:  # all that is allowed is -inf
            token_id = int(allowed.argmax())
        if math.isnan(values[token_id]):
            raise FloatingPointError("logits hold NaN")
        if self._random is not None and values[token_id] != -math.inf:
            token_id = _draw(values, self._params, self._random.random())
        self._adjustment.record(token_id)
        wanted = self._params.logprobs
        if wanted is None:
            return SampledToken(token_id, None)
        scored = logits if allowed is None else torch.from_numpy(_only(allowed, raw))
        return SampledToken(token_id, token_logprob(scored, token_id, wanted))


def greedy(logits: torch.Tensor, told: Sequence[bool]) -> list[SampledToken]:
    """The most probable token of each row of `logits` (float32 [rows, vocab]), the lowest id among equals, and where
    `told` is true its log probability.

    Raises FloatingPointError if a row holds NaN.
    """
    rows = _as_array(logits)
    best = rows.argmax(axis=1)
    if np.isnan(rows[np.arange(len(rows)), best]).any():
        raise FloatingPointError("logits hold NaN")
    chosen: list[int] = best.tolist()
    wanted = [row for row, tell in enumerate(told) if tell]
    scored = logits if len(wanted) == len(chosen) else logits[wanted]  # a copy costs as much as the rest
    logprobs = torch.log_softmax(scored, dim=-1) if wanted else ()
    values = {row: float(of_row[chosen[row]]) for row, of_row in zip(wanted, logprobs, strict=True)}
    return [
        SampledToken(token, TokenLogprob(token, values[row], ()) if row in values else None)
        for row, token in enumerate(chosen)
    ]


def token_logprob(logits: torch.Tensor, token_id: int, alternatives: int) -> TokenLogprob:
    """Natural log probability of `token_id` and of the best tokens under `logits` (float32 [vocab])."""
    logprobs = _as_array(torch.log_softmax(logits, dim=-1))
    best = _descending(logprobs, alternatives)[:alternatives] if alternatives else ()
    top = tuple((int(candidate), float(logprobs[candidate])) for candidate in best)
    return TokenLogprob(token_id, float(logprobs[token_id]), top)


def check_sampling(params: SamplingParams, vocab_size: int) -> None:
    """Raise ValueError, naming the field, for parameters that no `Sampler` or `StopStrings` can honour."""
    limits: tuple[tuple[str, float, bool], ...] = (
        ("max_tokens", params.max_tokens, params.max_tokens >= 1),
        ("temperature", params.temperature, 0 <= params.temperature < math.inf),
        ("top_p", params.top_p, 0 < params.top_p <= 1),
        ("top_k", params.top_k, params.top_k >= 0),
        ("min_p", params.min_p, 0 <= params.min_p <= 1),
        ("repetition_penalty", params.repetition_penalty, 0 < params.repetition_penalty < math.inf),
        ("presence_penalty", params.presence_penalty, math.isfinite(params.presence_penalty)),
        ("frequency_penalty", params.frequency_penalty, math.isfinite(params.frequency_penalty)),
        ("logprobs", params.logprobs or 0, (params.logprobs or 0) >= 0),
        ("prompt_logprobs", params.prompt_logprobs or 0, (params.prompt_logprobs or 0) >= 0),
    )
    for name, value, valid in limits:
        if not valid:
            raise ValueError(f"{name}: {value!r} is out of range")
    for token_id, bias in params.logit_bias.items():
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"logit_bias: token {token_id} is not in the vocabulary of {vocab_size}")
        if math.isnan(bias) or bias == math.inf:
            raise ValueError(f"logit_bias: {bias!r} for token {token_id} is out of range")
    if "" in params.stop:
        raise ValueError("stop: an empty string would stop everything")


def _only(allowed: NDArray[np.bool_], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values; -inf for what is not allowed."""
    return np.where(allowed, values, np.float32(-math.inf))


def _draw(values: NDArray[np.float32], params: SamplingParams, uniform: float) -> int:
    """The token at `uniform` in [0, 1) of the filtered distribution; no NaN, and not -inf throughout."""
    if 0 < params.top_k < values.size:
        ids = _descending(values, params.top_k)[: params.top_k]
        weights = _weights(values[ids], params.temperature)
        cumulative = np.cumsum(weights)
        kept = _kept(weights, cumulative, cumulative[-1], params)
        return int(ids[_position(cumulative[:kept], uniform)])
    weights = _weights(values, params.temperature)
    if params.top_p < 1:
        return _draw_nucleus(values, weights, params, uniform)
    if params.min_p > 0:  # the best token weighs exactly 1
        weights[weights < params.min_p] = 0
    return _position(torch.from_numpy(weights).cumsum(0).numpy(), uniform)


def _draw_nucleus(
    values: NDArray[np.float32], weights: NDArray[np.float64], params: SamplingParams, uniform: float
) -> int:
    """Draw where top-p cuts the whole vocabulary: among the best few, and more only if they do not reach."""
    total = float(weights.sum())
    count = FIRST_CANDIDATES
    while True:
        ids = _descending(values, count)
        cumulative = np.cumsum(weights[ids])
        if ids.size == values.size or cumulative[-1] >= params.top_p * total:
            kept = _kept(weights[ids], cumulative, total, params)
            return int(ids[_position(cumulative[:kept], uniform)])
        count *= CANDIDATES_GROWTH


def _kept(weights: NDArray[np.float64], cumulative: NDArray[np.float64], total: float, params: SamplingParams) -> int:
    """How many of the candidates, best first, top-p and min-p leave; at least one.

    Top-p keeps the fewest whose share of `total` reaches it.
    """
    nucleus = weights.size
    if params.top_p < 1:
        nucleus = int(np.searchsorted(cumulative, params.top_p * total, side="left")) + 1
    probable = int(np.searchsorted(-weights, -params.min_p, side="right"))  # the best token weighs exactly 1
    return max(1, min(nucleus, probable, weights.size))


def _position(cumulative: NDArray[np.float64], uniform: float) -> int:
    """Index of the candidate at `uniform` of the total; never one of weight 0, even if rounding goes up."""
    total = cumulative[-1]
    drawn = np.searchsorted(cumulative, uniform * total, side="right")
    last = np.searchsorted(cumulative, total, side="left")
    return int(min(drawn, last))


def _weights(values: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """exp((values − max) / temperature): in proportion to the probabilities, the best exactly 1."""
    exact = values.astype(np.float64)
    best = exact.max()
    if best == math.inf:  # a penalty overflowed; inf − inf would be NaN
        best = float(np.finfo(np.float32).max)
        np.minimum(exact, best, out=exact)
    exact -= best
    if temperature != 1:
        with np.errstate(over="ignore"):  # −huge / tiny: −inf, weight 0
            exact /= temperature
    return np.exp(exact, out=exact)


def _descending(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Ids of at least the `count` best values, best first, ties by id: a prefix of the full sort."""
    if count >= values.size:
        return np.argsort(-values, kind="stable")
    best = torch.topk(torch.from_numpy(values), count, sorted=False).values
    ids = np.flatnonzero(values >= best.min().item())
    return ids[np.argsort(-values[ids], kind="stable")]


def _random_source(seed: int | None) -> np.random.Generator:
    """A generator per request; negative seeds wrap to 64 bits, None asks the system for entropy."""
    return np.random.Generator(np.random.PCG64(None if seed is None else seed % 2**64))


def _as_array(logits: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = logits.detach().cpu().numpy()
    return array
