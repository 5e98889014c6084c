"""The scores that say whether a reply is drawn from a mounted fact."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kan.knowledge.evidence import ATTENDED, REPLY, UNATTENDED, Agreement, Evidence
from kan.knowledge.grounding import Calibration, Grounding, GroundingError, Judgement

SCORE = Grounding(
    Calibration({name: 0.5 + place for place, name in enumerate(ATTENDED)}, -3.0),
    Calibration({name: 0.25 * place for place, name in enumerate(UNATTENDED)}, -1.0),
    Calibration({name: 1.0 - place for place, name in enumerate(REPLY)}, 0.25),
    model_fingerprint="model",
    phi_digest="phi",
    fitted_to={"sets": ["synthetic"], "seed": 1},
)
EVIDENCE = Evidence(
    relevances=(0.8, 0.5),
    lexical=(0.7, 0.2),
    others=(0.4,),
    attention=(0.3, 0.1),
    logprobs=(-0.1, -2.0, -0.3),
    agreement=Agreement(mounted=0.75, nearness=0.5),
)
shares = st.floats(0, 1)


@st.composite
def evidence(draw: st.DrawFn) -> Evidence:
    count = draw(st.integers(1, 5))
    several = st.lists(shares, min_size=count, max_size=count).map(tuple)
    return Evidence(
        relevances=draw(several),
        lexical=draw(several),
        others=draw(st.lists(shares, max_size=3).map(tuple)),
        attention=draw(st.none() | several),
        logprobs=draw(st.lists(st.floats(max_value=0) | st.just(math.nan), max_size=5).map(tuple)),
        agreement=Agreement(draw(shares), draw(shares)),
    )


@given(evidence())
def test_signals_are_finite_and_have_their_names(one: Evidence) -> None:
    found = one.signals()
    assert tuple(found) == (UNATTENDED if one.attention is None else ATTENDED)
    assert all(map(math.isfinite, found.values()))
    judged = SCORE(one)
    assert 0 <= judged.grounded <= min(judged.fact_mounted, judged.follows_fact) <= 1


@given(evidence())
def test_without_attention_the_rest_of_the_signals_is_the_same(one: Evidence) -> None:
    attended, unattended = one.signals(), replace(one, attention=None).signals()
    assert unattended == {name: attended[name] for name in UNATTENDED}


def test_what_does_not_belong_together_is_refused() -> None:
    for changed in ({"relevances": ()}, {"lexical": (0.1,)}, {"attention": (0.1,)}):
        with pytest.raises(ValueError, match="one "):
            replace(EVIDENCE, **changed)


@pytest.mark.parametrize("attention", [None, (0.3, 0.1)])
def test_the_score_is_the_product_of_two_logistic_regressions(attention: tuple[float, ...] | None) -> None:
    one = replace(EVIDENCE, attention=attention)
    expected = []
    for calibration in (SCORE.fact_mounted if attention else SCORE.fact_mounted_unattended, SCORE.follows_fact):
        names = list(calibration.weights)
        weights = np.array([calibration.weights[name] for name in names], np.float64)
        logit = weights @ np.array([one.signals()[name] for name in names], np.float64) + calibration.bias
        expected.append(1 / (1 + np.exp(-logit)))
    judged = SCORE(one)
    assert (judged.fact_mounted, judged.follows_fact) == pytest.approx(tuple(expected), rel=1e-12)
    assert judged.grounded == pytest.approx(expected[0] * expected[1], rel=1e-12)


def test_a_huge_logit_is_a_probability() -> None:
    assert Calibration({"a": 1e9}, 0.0)({"a": 1.0}) == pytest.approx(1)
    assert 0 < Calibration({"a": 1e9}, 0.0)({"a": -1.0}) < 1e-20


def test_the_mean_of_judgements() -> None:
    judged = Judgement.mean([Judgement(1.0, 0.5, 0.5), Judgement(0.5, 0.0, 0.0)])
    assert judged == Judgement(0.75, 0.25, 0.25)


def test_save_and_load(tmp_path: Path) -> None:
    SCORE.save(tmp_path / "grounding.json")
    assert Grounding.load(tmp_path / "grounding.json") == SCORE


WEIGHTS = dict.fromkeys(REPLY, 1.0)


def follows(**changed: Any) -> dict[str, Any]:
    return {"follows_fact": {"weights": WEIGHTS, "bias": 0.0, **changed}}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"format": "kalmagrove-grounding-2"}, "version"),
        ({"fact_mounted": None}, "NoneType"),
        ({"fact_mounted": follows()["follows_fact"]}, "needs weights for"),
        (follows(weights={"agreement": 1.0}), "needs weights for"),
        (follows(weights={**WEIGHTS, "luck": 1.0}), "needs weights for"),
        (follows(weights=[1.0]), "items"),
        (follows(weights={**WEIGHTS, "agreement": "many"}), "many"),
        (follows(bias=None), "float"),
        (follows(bias=math.nan), "finite"),
        ({"follows_fact": {"weights": WEIGHTS}}, "bias"),
        ({"fitted_to": 3}, "int"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: dict[str, object], said: str) -> None:
    path = tmp_path / "grounding.json"
    SCORE.save(path)
    assert Grounding.load(path) == SCORE
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | damage), encoding="utf-8")
    with pytest.raises(GroundingError, match=rf"grounding\.json.*{said}"):
        Grounding.load(path)


@pytest.mark.parametrize("content", ["", "[]", "3", '"text"', "{}", '{"format": '])
def test_what_is_no_grounding_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "grounding.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(GroundingError, match=r"grounding\.json"):
        Grounding.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GroundingError, match=r"nowhere\.json"):
        Grounding.load(tmp_path / "nowhere.json")
