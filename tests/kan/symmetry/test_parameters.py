"""Counted parameters against the theory: orbits on pairs of indices, and the command that shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kan.symmetry.group import group_of
from kan.symmetry.parameters import count
from server.cli import app
from tests.kan.symmetry.models import ACTIONS, grouped_checkpoint, grouped_config
from tests.tiny import tiny_config


@pytest.mark.parametrize("name", ACTIONS)
def test_the_ratio_is_the_order_of_the_group(name: str) -> None:
    config = grouped_config(name, attention_bias=True, tie_word_embeddings=False)
    counts = count(config)
    assert counts.free * config.group_order == counts.dense
    assert (counts.ratio, counts.order) == (config.group_order, config.group_order)
    assert counts.bound == counts.ratio, "every element of these groups exchanges some words"
    assert sum(counts.orbits.values()) == config.vocab_size


def test_stabiliser_and_orbits_are_those_of_the_action() -> None:
    """symmetric(3) by the sign of its elements: the three even ones are not noticed."""
    config = replace(grouped_config("symmetric(3)"), group_action=((), ((40, 41), (50, 51))))
    counts = count(config)
    assert (counts.order, counts.stabiliser, counts.bound) == (6, 3, 2)
    assert counts.orbits == {1: config.vocab_size - 4, 2: 4}
    assert count(replace(config, group_action=())).bound == 1


def test_an_ordinary_model_has_no_more_than_itself() -> None:
    counts = count(tiny_config())
    assert (counts.free, counts.order, counts.stabiliser, counts.bound) == (counts.dense, 1, 1, 1)
    assert counts.least < counts.free


def test_theorem_1_is_met_by_one_copy_of_the_regular_representation() -> None:
    """A matrix of |G| inputs and |G| outputs has |G| = √(mn) free numbers: as many as orbits on pairs of indices."""
    group = group_of("dihedral(4)")
    pairs = group.table[:, :, None] * group.order + group.table[:, None, :]
    orbits = len(np.unique(pairs.reshape(group.order, -1).min(axis=0)))
    assert orbits == group.order == math.isqrt(group.order * group.order)


@pytest.mark.parametrize("name", ACTIONS)
def test_words_have_as_many_free_numbers_as_there_are_maps(name: str) -> None:
    """Maps from words to one copy of the channels that commute: orbits on pairs (element, word)."""
    action = grouped_config(name).vocabulary_action
    pairs = action.group.table[:, :, None] * action.points + action.table[:, None, :]
    assert len(np.unique(pairs.reshape(action.group.order, -1).min(axis=0))) == action.points


def test_the_command(tmp_path: Path) -> None:
    checkpoint = grouped_checkpoint(tmp_path / "models", "cyclic(4) x cyclic(2)")
    done = CliRunner().invoke(app, ["model", "params", "tiny", "--data-dir", str(tmp_path)])
    counts = count(checkpoint.config)
    assert done.exit_code == 0
    for told in (f"{counts.free:,}", f"{counts.dense:,}", f"{counts.least:,}", "cyclic(4) x cyclic(2)"):
        assert told in done.stdout
    assert CliRunner().invoke(app, ["model", "params", "none", "--data-dir", str(tmp_path)]).exit_code == 1
