"""The command line. Modules here import light; what is heavy (the server, the model, the store) is imported by the
command that needs it, so that `--help` and refusals are immediate.

Exit codes: 0 done; 1 refused or failed; 2 wrong usage or settings; 3 not found; 4 the server cannot be reached.
"""

from __future__ import annotations

import typer

from server.cli import bench, eval, kb, key, model, train
from server.cli.mcp import mcp
from server.cli.serve import serve

app = typer.Typer(
    name="kalmagrove",
    help="An LLM inference server whose knowledge can be edited while it runs.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold keys
)
app.command()(serve)
app.command()(mcp)
app.add_typer(kb.app, name="kb")
app.add_typer(model.app, name="model")
app.add_typer(key.app, name="key")
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")
app.add_typer(eval.app, name="eval")
