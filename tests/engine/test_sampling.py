"""The fast sampler against a plain one: float64, full sort, no shortcuts."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.decoding.sampling import Sampler, _position, check_sampling, greedy, token_logprob
from server.engine.protocol import SamplingParams

SIZES = (1, 2, 5, 123)
DRAWN_ONE_BY_ONE = 8
"""Logits of a row; of a longer one so many are drawn."""
LARGEST = float(np.finfo(np.float32).max)


def reference_logits(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], generated: Sequence[int]
) -> list[float]:
    """Bias and penalties, one token at a time, rounded to float32 after each step as its logits are."""
    f32 = np.float32
    said, counts = {*prompt, *generated}, Counter(generated)
    adjusted = []
    with np.errstate(over="ignore"):
        for token_id, logit in enumerate(logits):
            x = f32(logit) + f32(params.logit_bias.get(token_id, 0.0))
            if token_id in said and params.repetition_penalty != 1:
                penalty = f32(params.repetition_penalty)
                x = x / penalty if x > 0 else x * penalty
            x = x - f32(params.frequency_penalty) * f32(counts[token_id])
            x = x - f32(params.presence_penalty) * f32(counts[token_id] > 0)
            adjusted.append(float(x))
    return adjusted


def reference_token(logits: Sequence[float], params: SamplingParams, uniform: float) -> int:
    """The token at `uniform`, by sorting everything."""
    best = max(logits)
    order = sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))
    if params.temperature == 0 or best == -math.inf:
        return order[0]
    highest = min(best, LARGEST)
    with np.errstate(over="ignore"):
        scaled = (np.minimum(np.array(logits, np.float64), highest) - highest) / params.temperature
    weights = np.exp(scaled)
    if params.top_k:
        order = order[: params.top_k]
    cut_by_rank = params.top_p < 1 or 0 < params.top_k < len(logits)
    total = weights.sum() if len(order) == len(logits) else sum(weights[order].tolist())
    before = [0.0, *itertools.accumulate(weights[order].tolist())]
    if params.top_p < 1:
        order = [token_id for token_id, mass in zip(order, before, strict=False) if mass < params.top_p * total]
    order = [token_id for token_id in order if weights[token_id] >= params.min_p]
    if not cut_by_rank:
        order.sort()
    mass = list(itertools.accumulate(weights[order].tolist()))
    reached = (token_id for token_id, upto in zip(order, mass, strict=True) if upto > uniform * mass[-1])
    return next(reached, max(order, key=lambda token_id: weights[token_id]))


def rows(size: int) -> st.SearchStrategy[list[float]]:
    """Hostile logits: many ties, -inf, the ends of float32, ordinary values."""
    tied = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0])
    ordinary = st.floats(-30, 30, width=32)
    huge = st.sampled_from([LARGEST, -LARGEST, 1e30, -1e30, 1e-40, -math.inf])
    values = st.one_of(tied, ordinary, st.one_of(tied, huge), st.one_of(tied, ordinary, huge))
    if size <= DRAWN_ONE_BY_ONE:
        return st.lists(values, min_size=size, max_size=size)
    few = st.lists(values, min_size=1, max_size=DRAWN_ONE_BY_ONE)
    return st.tuples(few, st.integers(0, 2**32 - 1)).map(lambda drawn: _spread(*drawn, size))


def _spread(few: list[float], seed: int, size: int) -> list[float]:
    """The drawn values anywhere among ordinary ones, and again where they tie: to draw all one by one takes long."""
    rng = np.random.default_rng(seed)
    row = rng.uniform(-30, 30, size).astype(np.float32)
    again = rng.random(size) < rng.random()
    row[again] = rng.choice(np.array(few, np.float32), int(again.sum()))
    row[rng.permutation(size)[: len(few)]] = few
    return [float(value) for value in row]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], SamplingParams, list[int]]:
    """A few rows of logits, parameters, a prompt."""
    size = draw(st.sampled_from(SIZES))
    ids = st.integers(0, size - 1)
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1e-320, 1e-6, 0.3, 1.0, 1.7, 100.0])),
        top_p=draw(st.one_of(st.just(1.0), st.sampled_from([1e-9, 0.25, 0.5, 0.75]), st.floats(0.01, 1))),
        top_k=draw(st.sampled_from([0, 0, 1, 2, 5, 40, 500])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0])),
        seed=draw(st.integers(-(2**63), 2**63)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3, 0.5, 10.0])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 2.0, -2.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.7, -2.0])),
        logit_bias=draw(st.dictionaries(ids, st.sampled_from([-100.0, 100.0, 1.5, -math.inf]), max_size=5)),
    )
    steps = draw(st.lists(rows(size), min_size=1, max_size=4))
    return steps, params, draw(st.lists(ids, max_size=6))


@settings(max_examples=600, deadline=None)
@given(cases())
def test_equals_the_plain_reference(case: tuple[list[list[float]], SamplingParams, list[int]]) -> None:
    steps, params, prompt = case
    assert params.seed is not None
    uniforms = np.random.Generator(np.random.PCG64(params.seed % 2**64))
    sampler, generated = Sampler(params, prompt), list[int]()
    for row in steps:
        adjusted = reference_logits(row, params, prompt, generated)
        drawn = params.temperature > 0 and max(adjusted) > -math.inf
        expected = reference_token(adjusted, params, uniforms.random() if drawn else 0.0)
        chosen = sampler.sample(torch.tensor(row, dtype=torch.float32))
        assert chosen.token_id == expected
        assert chosen.logprob is None
        generated.append(chosen.token_id)


@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0, 4.0])
@pytest.mark.parametrize(
    "filters",
    [{"top_p": 0.9}, {"top_p": 0.999999}, {"top_k": 50}, {"top_k": 700, "top_p": 0.8}, {"min_p": 0.02}, {}],
    ids=str,
)
def test_equals_the_reference_over_a_real_vocabulary(filters: dict[str, Any], spread: float) -> None:
    """Nuclei that fit the first candidates, that do not, and (spread 0) rows of nothing but ties."""
    rng = np.random.default_rng(7)
    params = SamplingParams(seed=11, **filters)
    sampler, uniforms = Sampler(params, ()), np.random.Generator(np.random.PCG64(11))
    for _ in range(3):
        row = (rng.standard_normal(49_152) * spread).round(2).astype(np.float32)
        expected = reference_token(row.tolist(), params, uniforms.random())
        assert sampler.sample(torch.from_numpy(row)).token_id == expected


def probabilities(logits: list[float], keep: Sequence[int], temperature: float) -> dict[int, float]:
    weights = {token_id: math.exp(logits[token_id] / temperature) for token_id in keep}
    return {token_id: weight / sum(weights.values()) for token_id, weight in weights.items()}


@pytest.mark.parametrize(
    ("params", "keep"),
    [
        (SamplingParams(seed=1), range(5)),
        (SamplingParams(seed=2, temperature=0.5), range(5)),
        (SamplingParams(seed=3, top_k=3), [1, 3, 4]),
        (SamplingParams(seed=4, top_p=0.8), [1, 3]),  # shares: .53 .29 .11 .04 .03
        (SamplingParams(seed=5, min_p=0.1), [1, 3, 4]),
    ],
)
def test_frequencies(params: SamplingParams, keep: Sequence[int]) -> None:
    logits = [-0.6, 2.0, -0.9, 1.4, 0.4]
    sampler, row, draws = Sampler(params, ()), torch.tensor(logits), 20_000
    counts = Counter(sampler.sample(row).token_id for _ in range(draws))
    expected = probabilities(logits, keep, params.temperature)
    assert set(counts) == set(expected)
    chi_square = sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in expected.items())
    assert chi_square < {2: 10.8, 3: 13.8, 5: 18.5}[len(expected)]  # p = 0.001


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    row = torch.zeros(1000)

    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), ())
        return [sampler.sample(row).token_id for _ in range(8)]

    assert tokens(5) == tokens(5)
    assert tokens(5) != tokens(6)
    assert tokens(None) != tokens(None)


def test_samplers_do_not_share_randomness() -> None:
    """Interleaved with any other request, a request draws what it draws alone."""
    row = torch.randn(500, generator=torch.Generator().manual_seed(0))
    alone = [Sampler(SamplingParams(seed=9, top_p=0.9), ())]
    expected = [alone[0].sample(row).token_id for _ in range(10)]
    first, other = Sampler(SamplingParams(seed=9, top_p=0.9), ()), Sampler(SamplingParams(seed=9), ())
    observed = []
    for _ in range(10):
        other.sample(row)
        observed.append(first.sample(row).token_id)
        other.sample(row)
    assert observed == expected


def test_everything_filtered_keeps_the_best() -> None:
    banned = SamplingParams(seed=1, logit_bias=dict.fromkeys(range(5), -math.inf))
    assert Sampler(banned, ()).sample(torch.arange(5.0)).token_id == 0
    narrow = SamplingParams(seed=1, top_p=1e-300, min_p=1.0, temperature=1e-300)
    assert Sampler(narrow, ()).sample(torch.tensor([0.0, 3.0, 3.0])).token_id == 1


def test_a_draw_at_the_very_edge_is_still_possible_under_the_model() -> None:
    """Uniform 0, and products that round up to the total, must not fall on tokens of weight 0."""
    cumulative = np.array([0.0, 0.0, 0.25, 0.25, 1.0, 1.0])
    assert [_position(cumulative, uniform) for uniform in (0.0, 0.25, 1.0)] == [2, 4, 4]


def test_logits_are_left_alone() -> None:
    row = torch.arange(6.0)
    params = SamplingParams(logit_bias={1: 9.0}, temperature=0.7, min_p=0.3, repetition_penalty=2.0, logprobs=2)
    Sampler(params, [5]).sample(row)
    assert torch.equal(row, torch.arange(6.0))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_refused(temperature: float) -> None:
    row = torch.tensor([1.0, math.nan, 2.0])
    with pytest.raises(FloatingPointError, match="NaN"):
        Sampler(SamplingParams(temperature=temperature), ()).sample(row)
    with pytest.raises(FloatingPointError, match="NaN"):
        greedy(row[None], [False])


@settings(deadline=None)
@given(
    st.sampled_from(SIZES).flatmap(lambda size: st.lists(rows(size), min_size=0, max_size=4).map(lambda r: (size, r)))
)
def test_greedy_is_the_lowest_of_the_best(case: tuple[int, list[list[float]]]) -> None:
    size, batch = case
    expected = [row.index(max(row)) for row in np.array(batch, np.float32).reshape(-1, size).tolist()]
    logits = torch.tensor(batch, dtype=torch.float32).reshape(-1, size)
    told = [place % 2 == 0 for place in range(len(batch))]
    found = greedy(logits, told)
    assert [one.token_id for one in found] == expected
    silent, telling = (Sampler(SamplingParams(temperature=0, logprobs=wanted), ()) for wanted in (None, 0))
    # Whether a row is picked alone or in a batch, its token and its log probability are the same.
    alone = [(telling if tell else silent).sample(row) for row, tell in zip(logits, told, strict=True)]
    assert repr(found) == repr(alone), "as text, because NaN is not equal to itself"


def test_plain_greedy_is_only_what_a_batched_argmax_can_do() -> None:
    def plain(**changed: Any) -> bool:
        return Sampler(SamplingParams(**{"temperature": 0.0, **changed}), [1]).plain_greedy

    assert plain()
    assert plain(top_p=0.5, top_k=3, min_p=0.1, seed=1)
    assert not plain(temperature=1.0)
    assert plain(logprobs=0)
    assert not plain(logprobs=1)
    assert not plain(logit_bias={3: 1.0})
    assert not plain(repetition_penalty=1.1)
    assert not plain(presence_penalty=0.1)
    assert not plain(frequency_penalty=0.1)


def test_repetition_counts_the_prompt_and_the_other_penalties_do_not() -> None:
    row = torch.tensor([3.0, 2.0, 1.9])
    greedily = {"temperature": 0.0}

    def tokens(**penalties: float) -> list[int]:
        sampler = Sampler(SamplingParams(**greedily, **penalties), [0])  # type: ignore[arg-type]
        return [sampler.sample(row).token_id for _ in range(4)]

    assert tokens(repetition_penalty=2.0) == [1, 2, 0, 0]
    small = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0), [0])
    assert small.sample(torch.tensor([0.5, 0.4])).token_id == 1
    assert tokens(repetition_penalty=1e-60) == [0, 0, 0, 0]  # zero in float32
    assert tokens(presence_penalty=1.05) == [0, 1, 0, 0]
    assert tokens(frequency_penalty=1.05) == [0, 1, 0, 2]


def test_penalties_follow_more_distinct_tokens_than_they_began_with() -> None:
    """Each token is banned once said: a greedy walk through the whole vocabulary, in order of preference."""
    size = 400
    row = torch.arange(size, 0, -1, dtype=torch.float32)
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=1000.0), ())
    assert [sampler.sample(row).token_id for _ in range(size + 1)] == [*range(size), 0]


@settings(deadline=None)
@given(st.sampled_from(SIZES).flatmap(rows), st.integers(0, 7))
def test_logprobs_are_the_models_own(row: list[float], alternatives: int) -> None:
    row = [x if x != -math.inf else -50.0 for x in row]
    logits = torch.tensor(row, dtype=torch.float32)
    params = SamplingParams(temperature=0.3, top_k=2, logit_bias={0: 5.0}, seed=3, logprobs=alternatives)
    chosen = Sampler(params, [0]).sample(logits)
    exact = torch.log_softmax(logits.double(), dim=0).float().tolist()  # a difference beyond float32: -inf
    assert chosen.logprob == token_logprob(logits, chosen.token_id, alternatives)
    assert chosen.logprob is not None
    assert chosen.logprob.token_id == chosen.token_id
    assert chosen.logprob.logprob == pytest.approx(exact[chosen.token_id], rel=1e-5, abs=1e-5)
    assert [logprob for _, logprob in chosen.logprob.top] == pytest.approx(
        sorted(exact, reverse=True)[:alternatives], rel=1e-5, abs=1e-5
    )
    ranks = [(-logprob, token_id) for token_id, logprob in chosen.logprob.top]
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -math.inf),
        ("logit_bias", {10: 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logprobs", -1),
        ("prompt_logprobs", -1),
        ("stop", ("a", "")),
    ],
)
def test_bad_parameters_name_their_field(field: str, value: Any) -> None:
    check_sampling(SamplingParams(logit_bias={9: -math.inf}), vocab_size=10)
    with pytest.raises(ValueError, match=f"^{field}: "):
        check_sampling(SamplingParams(**{field: value}), vocab_size=10)
