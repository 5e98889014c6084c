"""`serve`: bad settings are refused by name before anything is loaded."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from server.cli import app


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "70000"], {}, "port"),
        (["--dtype", "float8"], {}, "dtype"),
        (["--host", "0.0.0.0"], {}, "0.0.0.0"),
        ([], {"KALMAGROVE_TOPK": "8"}, "KALMAGROVE_TOPK"),
        ([], {"KALMAGROVE_TOP_K": "many"}, "top_k"),
    ],
)
def test_refused(arguments: list[str], environment: dict[str, str], named: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments], env=environment)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output
