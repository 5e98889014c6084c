"""Splits."""

from __future__ import annotations

from lab.questions.question import SPLITS, split_of


def test_split_ignores_spelling() -> None:
    assert split_of("The Bahamas") == split_of("the bahamas") == split_of("Bahamas")
    assert split_of("Côte d'Ivoire") == split_of("cote d ivoire")
    shares = [split_of(f"subject {number}") for number in range(5000)]
    assert [round(shares.count(split) / 5000, 1) for split in SPLITS] == [0.8, 0.1, 0.1]
