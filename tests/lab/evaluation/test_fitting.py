"""The regressions behind `grounded`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluation.grounded.fitting import fit_calibration


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2)) * [1, 10] + [0, 5]
    logits = features @ [2.0, -0.1] + 0.3
    labels = rng.random(4000) < 1 / (1 + np.exp(-logits))
    fitted = fit_calibration([{"a": a, "b": b} for a, b in features.tolist()], labels.tolist(), ridge=1e-6)
    assert fitted.weights == pytest.approx({"a": 2.0, "b": -0.1}, rel=0.1)
    assert fitted.bias == pytest.approx(0.3, abs=0.15)


def test_logistic_regression_of_separable_cases_is_finite() -> None:
    fitted = fit_calibration([{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}] * 10, [False, True] * 10)
    assert all(map(math.isfinite, (*fitted.weights.values(), fitted.bias)))
    assert fitted.weights["a"] > 0


def test_labels_of_one_class_give_their_smoothed_share() -> None:
    fitted = fit_calibration([{"a": float(place)} for place in range(8)], [True] * 8)
    assert fitted({"a": 5.0}) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="no cases"):
        fit_calibration([], [])


@pytest.mark.parametrize(
    ("ridge", "weights", "bias"),
    [
        (1.0, (7.605933728138513, 0.28355369265869773), -1.600378383223862),
        (0.01, (39.100314304221186, 1.6587120344521278), -8.17717548706584),
    ],
)
def test_the_fit_is_that_of_earlier_calibrations(ridge: float, weights: tuple[float, float], bias: float) -> None:
    """Their files were fitted by Newton's method to the last digit."""
    signals = [{"a": (i * 7 % 11) / 11, "b": (i * 5 % 13) - 6.0} for i in range(40)]
    labels = [(i * 7 % 11) + (i * 5 % 13) / 3 + (i % 3) * 2 > 8 for i in range(40)]
    fitted = fit_calibration(signals, labels, ridge)
    assert (*fitted.weights.values(), fitted.bias) == pytest.approx((*weights, bias), rel=1e-6)


def test_the_fit_is_where_the_likelihood_has_no_slope() -> None:
    """In float64, by hand: the penalised log-likelihood's gradient over standardised signals is 0."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 3)) * [1, 5, 0.1] + [0, 2, -3]
    y = rng.random(200) < 1 / (1 + np.exp(-(x[:, 0] + 0.2 * x[:, 1])))
    fitted = fit_calibration([dict(zip("abc", row, strict=True)) for row in x.tolist()], y.tolist())
    weights = np.array([fitted.weights[name] for name in "abc"])
    mean, scale = x.mean(axis=0), x.std(axis=0)
    z, w = (x - mean) / scale, weights * scale
    logits = z @ w + fitted.bias + weights @ mean
    probabilities = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(z.T @ (y - probabilities) - w, 0, atol=1e-5)
    assert (y - probabilities).sum() == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(
        [fitted(dict(zip("abc", row, strict=True))) for row in x.tolist()], probabilities, rtol=1e-12
    )
