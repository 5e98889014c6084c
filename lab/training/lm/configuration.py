"""What `kalmagrove train lm` is told: a TOML file with the tables of `LMPlan`.

A name alone is that of a file beside this module (`configurations/`).
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kan.config import KANConfig
from kan.symmetry.group import TRIVIAL
from lab.errors import PlanError
from lab.questions.scan_words import END, tokens_of_cycles, vocabulary
from lab.training.lm.options import LMOptions

CONFIGURATIONS = Path(__file__).parent / "configurations"
CONTEXT = 256
"""Positions of a model: the longest sample has fewer than a hundred tokens."""
EPSILON = 1e-5
"""Of RMSNorm."""

SplitName = Literal["add-jump", "add-turn-left", "around-right", "length"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Shape(_Table):
    """Of the model, as in `KANConfig`. `exchanged`: cycles of words, for each generator of the group."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    group: str = TRIVIAL
    exchanged: tuple[tuple[tuple[str, ...], ...], ...] = ()


class ScanTask(_Table):
    """taught: the share of samples whose verbs are taught by facts."""

    split: SplitName
    taught: float = Field(0.0, ge=0, le=1)


class LMPlan(_Table):
    """All of a run but where it writes. `name`: of the model, and of its directory."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    model: Shape
    task: ScanTask
    training: LMOptions

    @property
    def config(self) -> KANConfig:
        """Raises PlanError, naming the field, for a shape that no model can have."""
        known = vocabulary()
        shape = self.model.model_dump(exclude={"exchanged"})
        try:
            return KANConfig(
                name=self.name,
                vocab_size=len(known),
                num_kv_heads=self.model.num_heads,
                max_position_embeddings=CONTEXT,
                rms_norm_eps=EPSILON,
                tie_word_embeddings=False,
                attention_bias=False,
                mlp_bias=False,
                bos_token_id=None,
                eos_token_ids=(known[END],),
                group_action=tokens_of_cycles(self.model.exchanged),
                **shape,
            )
        except ValueError as error:
            raise PlanError(f"model: {error}") from error

    def changed(self, *, split: str | None = None, seed: int | None = None, steps: int | None = None) -> LMPlan:
        """With what the command line says instead. Raises PlanError."""
        changed = self.model_dump()
        for table, field, value in (("task", "split", split), ("training", "seed", seed), ("training", "steps", steps)):
            if value is not None:
                changed[table][field] = value
        return _checked(json.dumps(changed), "options")


def read_plan(name: str) -> LMPlan:
    """Of the file, or of the configuration with this name. Raises PlanError."""
    packaged = CONFIGURATIONS / f"{name}.toml"
    path = packaged if Path(name).name == name and packaged.is_file() else Path(name)
    try:
        found = json.dumps(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        known = ", ".join(sorted(one.stem for one in CONFIGURATIONS.glob("*.toml")))
        raise PlanError(f"{name}: no such file, and no such configuration; there are {known}") from None
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(f"{path}: {error}") from error
    return _checked(found, str(path))


def read_plan_json(path: Path) -> LMPlan:
    """As a run notes it. Raises PlanError or OSError."""
    return _checked(path.read_text("utf-8"), str(path))


def _checked(found: str, source: str) -> LMPlan:
    """As JSON, in which lists may stand for tuples."""
    try:
        return LMPlan.model_validate_json(found)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise PlanError(f"{source}: {'; '.join(problems)}") from None
