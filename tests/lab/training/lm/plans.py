"""Plans of runs that take a second."""

from __future__ import annotations

import json
from typing import Any

from lab.training.lm.configuration import LMPlan

EXCHANGED = [
    [["walk", "look", "run", "jump"], ["I_WALK", "I_LOOK", "I_RUN", "I_JUMP"], ["dax", "wif", "lug", "zup"]],
    [["left", "right"], ["I_TURN_LEFT", "I_TURN_RIGHT"]],
]
GROUP = {"group": "cyclic(4) x cyclic(2)", "exchanged": EXCHANGED}


def tiny_plan(*, group: bool = True, taught: float = 0.5, **training: Any) -> LMPlan:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "head_dim": 16}
    options = {"steps": 6, "batch_size": 4, "validate_every": 2, "validation_size": 8, "warm_up": 2, **training}
    found = {
        "name": "tiny",
        "model": {**shape, **(GROUP if group else {})},
        "task": {"split": "add-jump", "taught": taught},
        "training": options,
    }
    return LMPlan.model_validate_json(json.dumps(found))
