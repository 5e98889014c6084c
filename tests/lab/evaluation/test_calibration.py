"""The fit of `grounded`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluation.calibration import fit_calibration


def test_logistic_regression_finds_the_weights_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2)) * [1, 10] + [0, 5]
    logits = features @ [2.0, -0.1] + 0.3
    labels = rng.random(4000) < 1 / (1 + np.exp(-logits))
    fitted = fit_calibration(features.tolist(), labels.tolist(), ridge=1e-6)
    assert fitted.weights == pytest.approx((2.0, -0.1), rel=0.1)
    assert fitted.bias == pytest.approx(0.3, abs=0.15)


def test_logistic_regression_of_separable_cases_is_finite() -> None:
    fitted = fit_calibration([[0.0, 1.0], [1.0, 1.0]] * 10, [False, True] * 10)
    assert all(map(math.isfinite, (*fitted.weights, fitted.bias)))
    assert fitted.weights[0] > 0
    with pytest.raises(ValueError, match="2 classes"):
        fit_calibration([[1.0]], [True])


@pytest.mark.parametrize(
    ("ridge", "weights", "bias"),
    [
        (1.0, (7.605933728138513, 0.28355369265869773), -1.600378383223862),
        (0.01, (39.100314304221186, 1.6587120344521278), -8.17717548706584),
    ],
)
def test_the_fit_is_that_of_earlier_calibrations(ridge: float, weights: tuple[float, float], bias: float) -> None:
    """Their files were fitted by Newton's method to the last digit."""
    signals = [((i * 7 % 11) / 11, (i * 5 % 13) - 6.0) for i in range(40)]
    labels = [(i * 7 % 11) + (i * 5 % 13) / 3 + (i % 3) * 2 > 8 for i in range(40)]
    fitted = fit_calibration(signals, labels, ridge)
    assert (*fitted.weights, fitted.bias) == pytest.approx((*weights, bias), rel=1e-6)
