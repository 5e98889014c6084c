from __future__ import annotations

import pytest

from kan.kernels import native
from tests.engine.harness import World
from tests.tiny import tiny_checkpoint

LONG_ON_KAN_SCAN = {
    "test_chunked_prefill_changes_no_token": ("1-9", "16-17", "17-9", "900-900"),
    "test_encoding_and_streams_do_not_disturb_each_other": ("",),
}
"""Tests, and which of their parameters, that CI runs on the tiny model only: on the larger one they take a minute."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name, _, parameters = item.name.partition("[")
        if "kan-scan" in parameters and parameters.startswith(LONG_ON_KAN_SCAN.get(name, ("-",))):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny random model, unless a test asks for a shipped one by its name (`EVERY_MODEL`)."""
    name = getattr(request, "param", "tiny")
    return World.create(tmp_path_factory.mktemp("model")) if name == "tiny" else World.shipped(name)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny model of a shape that the compiled kernels can compute."""
    try:
        native.library()
    except native.KernelsUnavailable as reason:
        pytest.skip(f"no compiled kernels: {reason}")
    return World.of(tiny_checkpoint(tmp_path_factory.mktemp("wide"), head_dim=32, num_heads=6, num_kv_heads=2))
