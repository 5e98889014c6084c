"""What was trained for particular models and comes with the package: φ, its model card, its calibration of `grounded`.

`<model>.phi.safetensors`, `<model>.phi.md`, `<model>.grounding.json`; a model is known by its fingerprint, not its
name.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open


def shipped_phi(model_fingerprint: str) -> Path | None:
    """The φ file made for this model, if there is one."""
    for path in sorted(Path(__file__).parent.glob("*.phi.safetensors")):
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("model_fingerprint") == model_fingerprint:
                return path
    return None


def grounding_beside(phi: Path) -> Path | None:
    """The calibration that belongs to a φ file, if there is one: same name, another ending."""
    path = phi.with_name(phi.name.removesuffix(".phi.safetensors") + ".grounding.json")
    return path if path.is_file() else None
