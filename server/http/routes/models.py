"""GET /v1/models, POST /v1/embeddings, /tokenize and /detokenize."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

from starlette.responses import Response

from kan.prompt import ChatMessage
from server.http.errors import invalid, not_found
from server.http.routes.base import json_response, strict_router
from server.http.schemas.models import (
    DetokenizeRequest,
    DetokenizeResponse,
    EmbeddingList,
    EmbeddingRequest,
    Model,
    ModelList,
    TokenizeRequest,
    TokenizeResponse,
)
from server.services import Context, ContextDep, TokenCounter

router = strict_router()


@router.get("/v1/models", responses={200: {"model": ModelList}})
async def list_models(context: ContextDep) -> Response:
    """The language model, and the encoder."""
    return json_response(ModelList(object="list", data=_models(context)))


@router.get("/v1/models/{model}", responses={200: {"model": Model}})
async def get_model(model: str, context: ContextDep) -> Response:
    """One of them."""
    for known in _models(context):
        if known["id"] == model:
            return json_response(known)
    raise not_found("There is no such model.", "model", "model_not_found")


@router.post("/v1/embeddings", responses={200: {"model": EmbeddingList}})
async def embeddings(body: EmbeddingRequest, context: ContextDep) -> Response:
    """Unit vectors of the encoder that retrieval uses."""
    services = context.services
    if body.model != services.embedding_model_name:
        message = f"There is no embedding model {body.model!r}; this server has {services.embedding_model_name!r}."
        raise not_found(message, "model", "model_not_found")
    dimension = services.encoder.dimension
    if body.dimensions not in (None, dimension):
        raise invalid(f"dimensions: this model has {dimension}", "dimensions", "invalid_value")
    if len(body.texts) > context.settings.max_embedding_inputs:
        message = f"input: at most {context.settings.max_embedding_inputs} texts on this server"
        raise invalid(message, "input", "invalid_value")
    with context.reads.enter():
        return await context.knowledge.embed(len(body.texts), partial(_embed, context, body))


def _embed(context: Context, body: EmbeddingRequest) -> Response:
    """Blocks: runs on a thread."""
    counts = _counted(context.services.token_counter, body.texts)
    vectors = context.services.encoder.embed(body.texts)
    spelled = [
        base64.b64encode(vector.astype("<f4").tobytes()).decode()
        if body.encoding_format == "base64"
        else vector.tolist()
        for vector in vectors
    ]
    result: EmbeddingList = {
        "object": "list",
        "model": body.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(spelled)
        ],
        "usage": {"prompt_tokens": sum(counts), "total_tokens": sum(counts)},
    }
    return json_response(result)


def _counted(counter: TokenCounter, texts: Sequence[str]) -> list[int]:
    """Raises ApiError for a text that the encoder would cut."""
    counts = counter.count(texts)
    for index, count in enumerate(counts):
        if count > counter.max_tokens:
            message = f"The text has {count} tokens; the encoder reads at most {counter.max_tokens}."
            raise invalid(message, f"input[{index}]", "context_length_exceeded")
    return counts


@router.post("/tokenize", responses={200: {"model": TokenizeResponse}})
async def tokenize(body: TokenizeRequest, context: ContextDep) -> Response:
    """Token ids of a text, or of a conversation without knowledge."""
    _require_model(context, body.model)
    with context.reads.enter():
        return await context.knowledge.read(partial(_tokenize, context, body))


def _tokenize(context: Context, body: TokenizeRequest) -> Response:
    builder = context.services.prompt
    if body.prompt is not None:
        tokens = builder.tokenizer.encode(body.prompt)
    else:
        messages = [ChatMessage("system" if m.role == "developer" else m.role, m.text) for m in body.messages or ()]
        try:
            tokens = builder.chat(messages, with_knowledge=False)
        except ValueError as error:
            raise invalid(str(error), "messages", "invalid_value") from error
    limit = context.services.engine.info.context_length
    return json_response(TokenizeResponse(tokens=tokens, count=len(tokens), max_model_len=limit))


@router.post("/detokenize", responses={200: {"model": DetokenizeResponse}})
async def detokenize(body: DetokenizeRequest, context: ContextDep) -> Response:
    """The text of token ids."""
    _require_model(context, body.model)
    tokenizer = context.services.prompt.tokenizer
    for index, token in enumerate(body.tokens):
        if token >= tokenizer.vocab_size:
            raise invalid(f"There is no token {token}.", f"tokens[{index}]", "invalid_value")
    return json_response(DetokenizeResponse(prompt=tokenizer.decode(body.tokens, skip_special=False)))


def _require_model(context: Context, name: str | None) -> None:
    if name is not None:
        context.require_model(name)


def _models(context: Context) -> list[Model]:
    names = (context.services.model_name, context.services.embedding_model_name)
    return [{"id": name, "object": "model", "created": context.started_at, "owned_by": "kalmagrove"} for name in names]
