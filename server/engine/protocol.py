"""What the service may ask of an engine, and the values that cross that border.

Nothing here knows HTTP, FAISS or torch: an engine turns token ids (and facts as token ids) into token chunks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:  # who only speaks the protocol needs no NumPy
    from kan.knowledge.fit import Fit

T = TypeVar("T")

FinishReason = Literal["stop", "length"]


class EngineError(Exception):
    """Base of everything an engine raises on purpose."""


class EngineUnavailable(EngineError):
    """The engine is draining, closed or dead; nothing new is accepted."""


class RequestTooLarge(EngineError):
    """The request can never fit (context window, or the whole page pool). Raised before any work is done."""


class GrammarTooComplex(EngineError):
    """A grammar could be compiled, but not followed; whatever the request held has been released."""


class GrammarError(ValueError):
    """A grammar that cannot be compiled; the message says why."""


class GrammarTooExpensive(GrammarError):
    """Compiling it takes more time or memory than a grammar may."""


class DeadlineExceeded(EngineError):
    """The request's deadline passed; whatever it held has been released."""


@dataclass(frozen=True, slots=True)
class FactTokens:
    """A fact rendered for the model. `key` names its page content: same key, same K/V, anywhere."""

    key: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MountedFact:
    """A fact to attend to, with how it fits the question."""

    fact: FactTokens
    fit: Fit
    version: int = 0
    """Of the knowledge, when the fact last changed: part of what salts an engine's own caches."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like. Only an engine makes one, by `compile`."""

    source: str
    """Lark, in llguidance's dialect."""
    compiled: object = field(default=None, repr=False, compare=False)
    """The engine's own."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to pick tokens. Defaults are OpenAI's; `temperature` 0 is greedy; `top_k` 0 and `min_p` 0 are off."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Not where a grammar says what may come: at its end only the end of the answer may."""
    grammar: Grammar | None = None
    logprobs: int | None = None
    """Number of alternatives to report per generated token; None reports none, 0 only the chosen token."""
    prompt_logprobs: int | None = None
    """The same for prompt tokens (echo); the first prompt token has none."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`prompt` is the context after the knowledge; with no facts it is the whole sequence."""

    id: str
    prompt: tuple[int, ...]
    facts: tuple[MountedFact, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    deadline: float | None = None
    """On time.monotonic()'s clock, seconds."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability under the model's own distribution (before temperature, filters and penalties)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logprob), most probable first."""


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """What became certain since the last chunk. `text` never holds half a UTF-8 character or a possible stop string.

    `token_ids` and `logprobs` run ahead of `text` where text is held back; over a whole request they add up.
    The last chunk, and only it, has a `finish_reason`.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """On the first chunk, if asked for."""
    finish_reason: FinishReason | None = None
    attention: tuple[float, ...] | None = None
    """On the last chunk: share of attention mass per mounted fact (mean over layers, heads, generated tokens)."""
    queue_seconds: float | None = None
    """On the first chunk: time between submission and admission."""
    timed_out: bool = False
    """On the last chunk: the deadline ended it. No engine says so; engines raise DeadlineExceeded."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Constants of a running engine."""

    name: str
    model_fingerprint: str
    context_length: int
    """Most tokens one sequence may have, knowledge layout included."""
    vocab_size: int
    max_running: int
    dtype: str
    kernels: str
    """What computes everything but matrix products: `native` or `torch`, or `vllm`."""
    facts_side_by_side: bool = True
    """Whether mounted facts share positions; else they take theirs one after the other."""
    prompt_logprobs_with_facts: bool = True
    """Whether log probabilities of prompt tokens can be had while facts are mounted."""

    def knowledge_positions(self, preamble: int, facts: Sequence[int]) -> int:
        """How many positions of the context window facts of these lengths take, with a preamble of this length."""
        if not facts:
            return 0
        return preamble + (max(facts) if self.facts_side_by_side else sum(facts))


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters (monotonic) and gauges, read at any time from any thread."""

    waiting: int = 0
    running: int = 0
    pages_total: int = 0
    pages_free: int = 0
    pages_context: int = 0
    pages_knowledge: int = 0
    page_hits: int = 0
    """Facts found resident when mounted."""
    page_misses: int = 0
    """Facts that had to be read from disk or encoded again when mounted."""
    facts_with_pages: int = 0
    """Facts whose pages are there, in memory or on disk."""
    facts_encoded: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    cancellations: int = 0
    jobs_dropped: int = 0
    """Computations of `run` whose caller left before they began."""
    steps: int = 0


class Engine(Protocol):
    """One model behind one queue. Methods are called from the event loop's thread unless said otherwise."""

    @property
    def info(self) -> EngineInfo: ...

    def stats(self) -> EngineStats: ...

    def healthy(self) -> bool:
        """True while the engine makes forward progress (or is idle and would)."""
        ...

    async def encode(self, facts: Sequence[FactTokens], *, bulk: bool = False) -> None:
        """Make the facts' pages available (resident, or on disk if memory is taken). Idempotent.

        In `bulk` they are made when nothing else wants the engine, and little by little beside the rest. What nobody
        waits for any more, because the callers were cancelled, is not made.
        """
        ...

    def has_pages(self, key: str) -> bool:
        """Whether the pages of a fact are made. Any thread may ask."""
        ...

    def expect(self, keys: Sequence[str]) -> None:
        """A request is about to mount these facts: what is on disk of their pages begins to be read.

        Any thread may call it; it never fails, and takes no longer than it takes to open the files.
        """
        ...

    def has_room(self) -> bool:
        """Whether more pages can be made without others having to go."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Their facts are gone: free their pages in memory and on disk, now or when their last reader ends.

        Any thread may call it; it never fails. It comes after every earlier `encode`, and ends what that began.
        """
        ...

    def reconcile(self, held: Collection[str]) -> None:
        """Forget the pages of every fact whose key is not among `held`, whoever left them. As `forget`.

        Nothing happens while another process uses the same page files: they may be of its facts.
        """
        ...

    async def run(self, function: Callable[[], T]) -> T:
        """Run a short computation (milliseconds) where it disturbs the model least, and return what it returns.

        Not at all if the caller is cancelled before it begins. Raises EngineUnavailable.
        """
        ...

    def compile(self, source: str) -> Grammar:
        """A grammar (Lark, in llguidance's dialect) for `SamplingParams`. Blocks for as long as its bounds allow; any
        thread may call it. Raises GrammarError."""
        ...

    def compiled(self, source: str) -> Grammar | None:
        """What `compile` made of it lately; None: it would have to. Waits for nothing; any thread may call it."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """Queue the request at once and iterate its chunks; how many may wait is the caller's to bound.

        Raises RequestTooLarge or EngineUnavailable from this call, not from the first iteration; iterating raises
        DeadlineExceeded, EngineUnavailable or GrammarTooComplex. Closing the iterator (`aclose`, or cancelling the
        task that awaits it) cancels the work.
        """
        ...

    def exposition(self) -> bytes:
        """Measurements that the engine itself keeps for Prometheus, as text; empty for none."""
        ...

    async def aclose(self) -> None:
        """Stop taking work, give what is left an error, release everything, in bounded time. Idempotent."""
        ...
