"""What runs in the process that grammars are tried in: they are compiled and thrown away. Stands alone, on llguidance.

In: 8 bytes that say how long, and the grammar. Out: one byte at the beginning, and one after each grammar, right or
wrong. One that takes too much ends the process.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread, stack_size

import llguidance

SECONDS = 1
"""Of the processor, for one grammar; up to one more, since the system counts whole ones."""
STACK_BYTES = 2**28
"""Of a thread that compiles or follows grammars. The compiler goes down from rule to rule, however many there are one
below the other: on a stack of the usual size a text of 23 kB ends the process. What is not used takes no memory."""
MEMORY_BYTES = STACK_BYTES + 2**28
LENGTH_BYTES = 8
DONE = b"."


def parser_limits() -> llguidance.LLParserLimits:
    """What llguidance itself bounds. Fuel is some microseconds a thousand; states take 1 to 2 kB each."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def _try_all() -> None:
    tokenizer = llguidance.LLTokenizer("byte")
    _answer()
    while header := sys.stdin.buffer.read(LENGTH_BYTES):
        source = sys.stdin.buffer.read(int.from_bytes(header)).decode()
        most = math.ceil(time.process_time()) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        try:
            lark = llguidance.LLMatcher.grammar_from_lark(source)
            llguidance.LLMatcher(tokenizer, lark, log_level=0, limits=parser_limits())
        except ValueError:
            pass  # who tried it will see
        _answer()


def _answer() -> None:
    sys.stdout.buffer.write(DONE)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the pipe is ours
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this than the server
    stack_size(STACK_BYTES)
    trying = Thread(target=_try_all)
    trying.start()
    trying.join()
