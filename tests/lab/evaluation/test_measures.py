"""Judging replies, the statistics over them, and the baselines φ is compared with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kan.attention import PAGE_SIZE
from kan.checkpoint.directory import Checkpoint
from kan.kernels.cpu import paged_attention
from kan.knowledge.fit import Fit
from kan.model import KANModel
from lab.evaluation.baselines import (
    constant_phi,
    kblam_phi,
    oracle_phi,
    scaled_phi,
    tempered_attention,
    with_temperature,
)
from lab.evaluation.logistic import fit_logistic
from lab.evaluation.measures import contains, exact_match, words
from lab.evaluation.statistics import (
    auroc,
    bootstrap,
    calibration_error,
    kl_divergence,
    paired_difference,
    reliability,
)


@pytest.mark.parametrize(
    ("reply", "answer", "numeric", "right"),
    [
        ("It is Paris.", "paris", False, True),
        ("It is the Parisian.", "Paris", False, False),
        ("He met The Beatles in Hamburg", "the Beatles", False, True),
        ("Café Müller", "cafe muller", False, True),
        ("about 1234 people", "1,234", True, True),
        ("about 1,234 people", "1234", True, True),
        ("The rate is 193.25 percent", "93.2", True, False),
        ("The rate is 93.2%.", "93.2", True, True),
        ("It was 5,000.", "5,000", True, True),
        ("It was 15,000.", "5,000", True, False),
        ("minus: -5 degrees", "-5", True, True),
        ("5 degrees", "-5", True, False),
        ("from 1990-1995", "1995", True, True),
        ("5km away", "5", True, True),
        ("on the 4th floor", "4", True, True),
        ("at 12:30 sharp", "12:30", True, True),
        ("at 12:30 sharp", "30", True, False),
        ("code QLF-42661.", "QLF-42661", True, True),
        ("code QLF-426611.", "QLF-42661", True, False),
        ("X7Q2B", "X7Q2", True, False),
        ("version 1.2.3", "1.2", True, False),
        ("Grade A it is", "A", True, True),
        ("Mara Lind and also Jon Vell", "Mara Lind & Jon Vell", False, True),
        ("Mara Lind", "Mara Lind & Jon Vell", False, False),
        ("The answer is a.", "a", False, True),
        ("", "x", False, False),
        ("anything", "", False, False),
    ],
)
def test_contains(reply: str, answer: str, numeric: bool, right: bool) -> None:
    assert contains(reply, ["zzz", answer], numeric) is right


def test_exact_match() -> None:
    assert exact_match("The Beatles!", ["beatles"])
    assert not exact_match("The Beatles, of course", ["beatles"])
    assert exact_match("$1,234", ["1234"], numeric=True)


@given(st.text())
def test_a_text_contains_itself(text: str) -> None:
    assert not words(text) or contains(text, [text], numeric=True) or " & " in text
    assert exact_match(text, [text], numeric=True)


def test_bootstrap() -> None:
    estimate = bootstrap([1.0] * 30 + [0.0] * 70)
    assert estimate.mean == pytest.approx(0.3)
    assert 0.2 < estimate.low < 0.3 < estimate.high < 0.4
    assert estimate == bootstrap([1.0] * 30 + [0.0] * 70)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([])


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    theirs = [float(i % 2) for i in range(100)]
    ours = [1.0 if i < 10 else value for i, value in enumerate(theirs)]
    estimate = paired_difference(ours, theirs)
    assert estimate.mean == pytest.approx(0.05)
    assert estimate.high - estimate.low < 0.1
    with pytest.raises(ValueError, match="shorter"):
        paired_difference(ours, theirs[1:])


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(cases: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in cases], [label for _, label in cases]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="both classes"):
            auroc(scores, labels)
        return
    pairs = [(a, b) for a, one in cases if one for b, other in cases if not other]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auroc(scores, labels) == pytest.approx(expected)


def test_reliability() -> None:
    bins = reliability([0.05, 0.05, 0.95, 1.0], [False, True, True, True])
    assert [one.n for one in bins] == [2, 2]
    assert bins[0].observed == 0.5
    assert calibration_error(bins) == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)


def test_kl_divergence() -> None:
    p, q = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        assert kl_divergence(np.log(np.array([1.0, 0.0])), q) == pytest.approx(math.log(4))


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2)) * [1, 10] + [0, 5]
    logits = features @ [2.0, -0.1] + 0.3
    labels = rng.random(4000) < 1 / (1 + np.exp(-logits))
    weights, bias = fit_logistic(features.tolist(), labels.tolist(), ridge=1e-6)
    assert weights == pytest.approx((2.0, -0.1), rel=0.1)
    assert bias == pytest.approx(0.3, abs=0.15)


def test_logistic_regression_of_separable_cases_is_finite() -> None:
    weights, bias = fit_logistic([[0.0, 1.0], [1.0, 1.0]] * 10, [False, True] * 10)
    assert all(map(math.isfinite, (*weights, bias)))
    assert weights[0] > 0
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic([[1.0]], [True])


@pytest.fixture(scope="module")
def model(tiny: Checkpoint) -> KANModel:
    return KANModel(tiny.config, tiny.tensors())


def bias_of(model: KANModel, phi: Any, relevances: list[float]) -> torch.Tensor:
    """[m]: what φ adds to the scores; the same in all layers and heads."""
    values = phi([Fit(one) for one in relevances]) / math.sqrt(model.config.head_dim)
    assert torch.equal(values, values[:1, :1].expand_as(values))
    return values[0, 0]


def test_constants(model: KANModel) -> None:
    assert bias_of(model, constant_phi(model, -1.5), [0.1, 0.9, -0.4]).tolist() == pytest.approx([-1.5] * 3)
    for count in (1, 2, 8, 16):
        bias = bias_of(model, kblam_phi(model, 20.0), [0.5] * count)
        assert bias.tolist() == pytest.approx([math.log(20 / count)] * count, abs=1e-5)
    assert bias_of(model, scaled_phi(model, 3.0), [0.5]).tolist() == pytest.approx([math.log(3)])
    assert 0 < bias_of(model, scaled_phi(model, 1.0), [0.5]).item() < 1e-5


def test_the_oracle_hides_all_but_gold(model: KANModel) -> None:
    phi = oracle_phi(model)
    assert bias_of(model, phi, [1.0]).tolist() == [0]
    assert bias_of(model, phi, [-1.0, 1.0, -1.0]).tolist() == pytest.approx([-1e4, 0, -1e4])
    assert bias_of(model, phi, [1.0, -1.0, 1.0]).tolist() == pytest.approx([0, -1e4, 0])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tempered_attention(temperature: float) -> None:
    """Against the ordinary kernel: with queries that are hotter on fact columns only, by hand."""
    generator = torch.Generator().manual_seed(0)
    sequences, n, heads, kv_heads, d, pages = 2, 3, 4, 2, 8, 3
    q = torch.randn(sequences, n, heads, d, generator=generator)
    kv = torch.randn(2, kv_heads, 7, PAGE_SIZE, d, generator=generator)
    table = torch.tensor([[0, 1, 2], [3, 4, 5]])
    mask = torch.zeros(sequences, n, pages * PAGE_SIZE)
    mask[:, :, -5:] = -torch.inf
    phi = torch.zeros(heads, sequences, 2 * PAGE_SIZE)
    phi[:, :, PAGE_SIZE:] = 0.7  # the second page is a fact, the first a preamble, the third the context
    hot = kv.clone()
    hot[0][:, table[:, 1]] /= temperature
    mass, expected_mass = torch.zeros(2, sequences, 2 * PAGE_SIZE)
    out = tempered_attention(temperature)(q, kv, table, mask, phi, mass)
    expected = paged_attention(q, hot, table, mask, phi, expected_mass)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(mass, expected_mass)


def test_a_temperature_leaves_the_model_as_it_was(model: KANModel) -> None:
    before = model.kernels
    tempered = with_temperature(model, 0.5)
    assert tempered.kernels is not before
    assert model.kernels is before
    assert tempered.layers is model.layers
    assert with_temperature(model, 1.0) is model
