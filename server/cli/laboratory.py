"""What `kalmagrove train` and `eval` share: how an experiment's failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from server.cli.console import USAGE, CommandError, fail


@contextmanager
def failures_told() -> Iterator[None]:
    """Ends the command with one line for whatever stands in the way."""
    from kan.checkpoint.directory import CheckpointError
    from kan.knowledge.grounding import GroundingError
    from kan.knowledge.phi import PhiError
    from lab.errors import LabError, PlanError

    try:
        yield
    except CommandError as error:
        fail(error)
    except PlanError as error:
        fail(CommandError(str(error), USAGE))
    except (CheckpointError, PhiError, GroundingError, LabError, ValueError, OSError) as error:
        fail(CommandError(str(error)))
    except ModuleNotFoundError as error:
        fail(CommandError(f"{error.name} is not installed; `pip install kalmagrove[train]` brings it"))
