"""φ as a function, and as a file that must be right or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kan.knowledge.fit import Fit
from kan.knowledge.phi import FEATURES, Phi, PhiError, features, gap_phi, hat_basis, load_phi, save_phi, zero_phi
from tests.tiny import tiny_config


def random_phi(seed: int = 0) -> Phi:
    generator = torch.Generator().manual_seed(seed)
    return Phi(torch.randn(2, 4, len(FEATURES), 8, generator=generator), "model-a", "encoder-a")


def load(path: Path, **overrides: str) -> Phi:
    wanted = {"model_fingerprint": "model-a", "encoder_fingerprint": "encoder-a"} | overrides
    return load_phi(path, tiny_config(), **wanted)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.integers(2, 9))
def test_basis_weights_are_a_partition(relevance: list[float], knots: int) -> None:
    table = np.array([relevance, relevance[::-1], relevance, relevance, relevance], np.float32).T
    basis = hat_basis(features(table), knots)
    assert basis.shape == (len(relevance), len(FEATURES), knots)
    assert np.allclose(basis.sum(-1), 1, atol=1e-5)
    assert (basis >= 0).all()
    assert ((basis > 0).sum(-1) <= 2).all()


def test_a_spline_passes_through_its_coefficients_and_is_linear_between() -> None:
    phi = zero_phi(1, 1, knots=5)
    phi.coefficients[0, 0, 0] = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0])  # of relevance, knots at -.2, .1, .4, .7, 1
    for relevance, expected in ((-1.0, 0.0), (-0.2, 0.0), (0.1, 1.0), (0.4, 4.0), (0.55, 6.5), (1.0, 16.0)):
        assert phi([Fit(relevance)])[0, 0, 0] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)))
def test_phi_of_a_fact_does_not_depend_on_its_place(order: list[int]) -> None:
    fits = [Fit(0.9, 0.4, 0), Fit(0.1, 0.1, 0.5), Fit(0.5, 0.7), Fit(-0.3), Fit(0.5, -0.1, 0.2), Fit(0, 0.2, -0.1)]
    phi = random_phi()
    assert torch.allclose(phi(fits)[:, :, order], phi([fits[place] for place in order]), atol=1e-6)


def test_every_part_of_the_fit_counts_and_nothing_mounted_has_no_bias() -> None:
    phi = random_phi()
    plain = phi([Fit(0.5), Fit(0.4)])
    for other in (Fit(0.3), Fit(0.4, bridge=0.2), Fit(0.4, rest=0.2), Fit(0.4, lexical=0.1), Fit(0.4, length=99)):
        assert not torch.allclose(phi([Fit(0.5), other])[:, :, 1], plain[:, :, 1])
    assert phi([]).shape == (*plain.shape[:2], 0)


def test_words_in_common_lead_and_agree_with_what_is_near() -> None:
    """Ties rank alike; a fact that is alone leads without limit, and is first by both."""
    table = np.array([Fit(0.9, lexical=0.5, length=16), Fit(0.8, lexical=0.75, length=2048), Fit(0.8, lexical=0.5)])
    found = dict(zip(FEATURES, features(table).T, strict=True))
    np.testing.assert_allclose(found["lexical"], [0.5, 0.75, 0.5])
    np.testing.assert_allclose(found["lexical_lead"] * 2 - 1, [-0.25, 0.25, -0.25])
    np.testing.assert_allclose(found["agreement"], [(1 + 1 / 2) / 2, (1 / 2 + 1) / 2, 1 / 2])
    np.testing.assert_allclose(found["log_length"], [0, 1, 0])
    (alone,) = features(np.array([Fit(0.1)]))
    assert (alone[FEATURES.index("lexical_lead")], alone[FEATURES.index("agreement")]) == (1, 1)


def test_gap_phi_weighs_facts_by_their_distance_from_the_best() -> None:
    """e^(-30 · gap), never below e^-6, in the units of Eq. 1 (before 1/√d)."""
    phi = gap_phi(2, 4, head_dim=64, knots=51)([Fit(0.8, 0.3), Fit(0.78), Fit(0.5, 0.1, 0.9), Fit(-0.2)])
    assert torch.allclose(phi[1, 3] / 8, torch.tensor([0.0, -0.6, -6.0, -6.0]), atol=1e-4)
    assert torch.equal(phi[0, 0], phi[1, 3])


def test_zero_means_no_bias() -> None:
    assert zero_phi(2, 4).is_zero
    assert not random_phi().is_zero
    assert not bool(zero_phi(2, 4)([Fit(0.3, 0.5, 0.1), Fit(0.9, 0.2, 0.4)]).any())


def test_round_trip(tmp_path: Path) -> None:
    save_phi(random_phi(), tmp_path / "phi.safetensors")
    loaded = load(tmp_path / "phi.safetensors")
    assert torch.equal(loaded.coefficients, random_phi().coefficients)
    assert loaded.digest == random_phi().digest


@pytest.mark.parametrize("what", ["model", "encoder"])
def test_another_fingerprint_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "phi.safetensors"
    save_phi(random_phi(), path)
    with pytest.raises(PhiError, match=f"phi.safetensors: φ was trained for another {what}"):
        load(path, **{f"{what}_fingerprint": "b"})


def refused(path: Path) -> bool:
    """True if the file is refused by name; a file that is not must still give exactly the same φ."""
    try:
        loaded = load(path)
    except PhiError as error:
        return str(path) in str(error)
    assert torch.equal(loaded.coefficients, random_phi().coefficients)
    return False


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "phi.safetensors"
    save_phi(random_phi(), path)
    whole = path.read_bytes()
    flipped = []
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        flipped.append(refused(path))
    assert sum(flipped) > 0.9 * len(flipped)  # the rest hit the header's padding or a name nobody reads
    for length in range(0, len(whole), 101):
        path.write_bytes(whole[:length])
        assert refused(path)


def test_missing_file_and_wrong_shape_are_named(tmp_path: Path) -> None:
    with pytest.raises(PhiError, match="no such φ file"):
        load(tmp_path / "absent")
    save_phi(random_phi(), tmp_path / "phi.safetensors")
    other = tiny_config(num_layers=30, num_heads=9, num_kv_heads=3)
    with pytest.raises(PhiError, match=r"shape \(2, 4, 9, 8\); this model needs \(30, 9, 9"):
        load_phi(tmp_path / "phi.safetensors", other, model_fingerprint="model-a", encoder_fingerprint="encoder-a")
