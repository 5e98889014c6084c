"""How log lines are written: as text or as JSON, one record a line, uvicorn's own included.

No line quotes a request, a fact or a key. What an exception says may quote any of them, so of an exception only its
kind and where it came from are written, and what the operating system said of a failed call.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

from server.outlet import Outlet

LogFormat = Literal["text", "json"]
CHATTY = ("httpx", "sentence_transformers", "transformers")
logger = logging.getLogger("kalmagrove.loop")


def configure(level: str, form: LogFormat) -> Outlet:
    """Everything that is logged from now on goes to stderr, in this form, through what is returned."""
    outlet = Outlet(sys.stderr)
    handler = logging.StreamHandler(outlet)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return outlet


def formatter(form: LogFormat) -> logging.Formatter:
    """Writes a record's `fields`, a mapping that whoever logs may give as an extra, one by one."""
    return JsonFormatter() if form == "json" else TextFormatter()


def log_loop_failures(loop: asyncio.AbstractEventLoop) -> None:
    """In place of asyncio's own lines, which quote what the failed callback or task was called with."""
    loop.set_exception_handler(_loop_failed)


def _loop_failed(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    logger.error("a task or callback failed unheard", exc_info=context.get("exception"))


class TextFormatter(logging.Formatter):
    """One line, and what is known of an exception below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        record = _own(record)
        record.msg = " ".join([record.getMessage(), *(f"{name}={value}" for name, value in fields.items())])
        record.args = None
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return "\n".join(told(ei[1]))


class JsonFormatter(OrjsonFormatter):
    """One JSON object a line."""

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            timestamp=True,
            reserved_attrs=[*RESERVED_ATTRS, "color_message", "fields"],
        )

    def format(self, record: logging.LogRecord) -> str:
        own = _own(record)
        own.__dict__.update(getattr(record, "fields", {}))
        return super().format(own)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(told(ei[1]))


def told(error: BaseException | None) -> Iterator[str]:
    """Lines about an exception and those that led to it, the first one first: kinds and places, not what they say."""
    if error is None:
        return
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from told(before)
        yield "which led to:"
    for entry in traceback.format_tb(error.__traceback__):
        yield from entry.rstrip().splitlines()
    system = f": {error.strerror}" if isinstance(error, OSError) and error.errno else ""
    yield f"{type(error).__module__}.{type(error).__qualname__}{system}"
    if isinstance(error, BaseExceptionGroup):
        for number, part in enumerate(error.exceptions, 1):
            yield f"part {number}:"
            yield from (f"  {line}" for line in told(part))


def _own(record: logging.LogRecord) -> logging.LogRecord:
    """A copy, without what another handler's formatter may have made of the exception."""
    record = copy.copy(record)
    record.exc_text = None
    return record
