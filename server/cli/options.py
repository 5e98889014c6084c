"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_SERVER = "http://127.0.0.1:8000"

Server = Annotated[str, typer.Option("--server", envvar="KALMAGROVE_URL", help="Address of a running server.")]
AdminServer = Annotated[
    str,
    typer.Option(
        "--server",
        envvar=["KALMAGROVE_ADMIN_URL", "KALMAGROVE_URL"],
        help="Address of a running server; of its admin listener, if it has one.",
    ),
]
AdminUrl = Annotated[
    str | None,
    typer.Option("--admin-server", envvar="KALMAGROVE_ADMIN_URL", help="Address of /admin, if it is apart."),
]
ClientKey = Annotated[
    str | None,
    typer.Option("--key", envvar="KALMAGROVE_API_KEY", show_envvar=True, help="Key for /v1, if the server has keys."),
]
AdminKey = Annotated[
    str | None,
    typer.Option("--admin-key", envvar="KALMAGROVE_ADMIN_KEY", help="Key for /admin, if the server has keys."),
]
DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="KALMAGROVE_DATA_DIR", help="Directory of models, knowledge and cached pages."),
]


def model_directory(data_dir: Path, model: str) -> Path:
    """Of the model with this name under the models directory, or else of a shipped one, or of the path."""
    named = data_dir / "models" / model
    if named.is_dir():
        return named
    from kan.shipped import shipped_model

    return shipped_model(model) or Path(model)
