"""`python -m server.cli`, for where the `kalmagrove` script is not on the path."""

from server.cli import app

app(prog_name="kalmagrove")
