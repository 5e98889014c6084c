"""What was trained and comes with the package: models; and for models φ, its card, its calibration of `grounded`.

`<model>/` is a checkpoint, `<model>.md` its card. `<model>.phi.safetensors`, `<model>.phi.md`,
`<model>.grounding.json`: there a model is known by its fingerprint, not its name.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from kan.checkpoint.directory import MANIFEST_FILE


def shipped_model(name: str) -> Path | None:
    """The directory of the checkpoint with this name, if there is one."""
    directory = Path(__file__).parent / name
    return directory if name == directory.name and (directory / MANIFEST_FILE).is_file() else None


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
