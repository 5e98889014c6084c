"""Other projects' model files, made into checkpoints: `import_model` is the door, each format a module."""

from kan.importing.imported import ModelImportError, Progress
from kan.importing.sources import import_model

__all__ = ["ModelImportError", "Progress", "import_model"]
