"""What the routes work with, put together once per app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import Request

from kan.knowledge.grounding import Grounding
from kan.prompt import PromptBuilder
from kb.encoder.protocol import Encoder
from kb.store import Store
from server.engine.protocol import Engine
from server.http.auth import Keys
from server.http.errors import not_found
from server.http.limits import Gate
from server.metrics import Metrics
from server.service.completions import Completions
from server.service.knowledge import KnowledgeService
from server.service.prompts import Preparer
from server.settings import Settings


class TokenCounter(Protocol):
    """How the encoder of embeddings splits text."""

    @property
    def max_tokens(self) -> int:
        """The encoder reads no further than this."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Word pieces per text, the two special ones included."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The parts a server is made of. The app closes engine and store when it ends."""

    engine: Engine
    store: Store
    encoder: Encoder
    token_counter: TokenCounter
    prompt: PromptBuilder
    model_name: str
    embedding_model_name: str = "all-minilm-l6-v2"
    keys: Keys = field(default_factory=Keys)
    grounding: Grounding | None = None
    """None: no calibration for this model and φ."""


@dataclass(slots=True)
class Lifecycle:
    """Whether the server still takes work. Owned by the event loop."""

    draining: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """Services, and what the app builds from them."""

    settings: Settings
    services: Services
    metrics: Metrics
    knowledge: KnowledgeService
    preparer: Preparer
    completions: Completions
    edits: Gate
    reads: Gate
    imports: Gate
    lifecycle: Lifecycle
    started_at: int

    @property
    def fingerprint(self) -> str:
        """OpenAI's system_fingerprint: changes with the model."""
        return f"kg_{self.services.engine.info.model_fingerprint[:12]}"

    def require_model(self, name: str) -> None:
        """Raises ApiError (404) if the request names another model."""
        if name != self.services.model_name:
            message = f"The model {name!r} does not exist; this server has {self.services.model_name!r}."
            raise not_found(message, "model", "model_not_found")


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
