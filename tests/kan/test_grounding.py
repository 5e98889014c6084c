"""The score that says whether an answer is drawn from a mounted fact."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kan.knowledge.grounding import SIGNALS, Calibration, Grounding, GroundingError, signals

RELEVANT = Calibration((8.0, 12.0), -6.0)
SCORE = Grounding(Calibration((5.0, 10.0, 1.0, 0.5, 2.0), -3.0), RELEVANT, "model", "phi")


def test_signals() -> None:
    assert signals([0.2, 0.8, 0.5], [0.1, 0.2, 0.1]) == pytest.approx(
        (0.8, 0.3, math.log(0.2), math.log(0.4), (0.02 + 0.16 + 0.05) / 0.4)
    )
    assert signals([0.4], [0.0])[:2] == (0.4, 0.0)
    with pytest.raises(ValueError, match="one relevance"):
        signals([0.1], [])
    with pytest.raises(ValueError, match="at least one"):
        signals([], [])


def test_a_score_is_a_probability() -> None:
    assert SCORE([], []) == 0
    low, high = SCORE([0.1, 0.1], [0.01, 0.01]), SCORE([0.9, 0.2], [0.3, 0.01])
    assert 0 < low < high < 1
    assert Grounding(Calibration((1e9, 0.0, 0.0, 0.0, 0.0), 0.0), RELEVANT)([0.9], [0.1]) == 1


def test_without_attention_relevance_alone_counts() -> None:
    assert SCORE([], None) == 0
    assert SCORE([0.2, 0.8], None) == pytest.approx(1 / (1 + math.exp(-(8 * 0.8 + 12 * 0.6 - 6))))
    assert SCORE([0.8], None) == pytest.approx(1 / (1 + math.exp(-(8 * 0.8 - 6))))


def test_facts_have_no_order() -> None:
    assert SCORE([0.9, 0.2, 0.3], [0.3, 0.1, 0.2]) == pytest.approx(SCORE([0.3, 0.9, 0.2], [0.2, 0.3, 0.1]))


def test_save_and_load(tmp_path: Path) -> None:
    SCORE.save(tmp_path / "grounding.json")
    assert Grounding.load(tmp_path / "grounding.json") == SCORE


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "other"},
        {"signals": list(reversed(SIGNALS))},
        {"attended": {"weights": [1.0], "bias": 0.0}},
        {"attended": {"weights": "many", "bias": 0.0}},
        {"unattended": {"weights": [1.0, 2.0], "bias": None}},
        {"unattended": {"weights": [1.0, 2.0], "bias": math.nan}},
        {"unattended": None},
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "grounding.json"
    SCORE.save(path)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | damage), encoding="utf-8")
    with pytest.raises(GroundingError, match=r"grounding\.json"):
        Grounding.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GroundingError, match=r"nowhere\.json"):
        Grounding.load(tmp_path / "nowhere.json")
