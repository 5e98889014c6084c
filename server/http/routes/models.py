"""GET /v1/models, POST /v1/embeddings, /tokenize and /detokenize."""

from __future__ import annotations

import base64
from functools import partial

from starlette.responses import Response

from kb.index.segment import Vectors
from server.http.errors import invalid, not_found
from server.http.routes.base import json_response, strict_router
from server.http.routes.chat import turns
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
from server.service.admission import Key
from server.service.prompts import Conversation, Text
from server.services import CallerDep, Context, ContextDep

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
async def embeddings(body: EmbeddingRequest, context: ContextDep, caller: CallerDep) -> Response:
    """Unit vectors of the encoder that retrieval uses."""
    context.require_embedding_model(body.model)
    dimension = context.services.encoder.dimension
    if body.dimensions not in (None, dimension):
        raise invalid(f"dimensions: this model has {dimension}", "dimensions", "invalid_value")
    if len(body.texts) > context.settings.max_embedding_inputs:
        message = f"input: at most {context.settings.max_embedding_inputs} texts on this server"
        raise invalid(message, "input", "invalid_value")
    async with context.reads.enter(Key(caller)):
        vectors, tokens = await context.embedding.of_inputs(caller, body.texts, "input[{}]".format)
        return await context.lanes.reads.run(partial(_embedded, body, vectors, tokens))


def _embedded(body: EmbeddingRequest, vectors: Vectors, tokens: int) -> Response:
    """Blocks: runs on a thread."""
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
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json_response(result)


@router.post("/tokenize", responses={200: {"model": TokenizeResponse}})
async def tokenize(body: TokenizeRequest, context: ContextDep, caller: CallerDep) -> Response:
    """Token ids of a text, or of a conversation without knowledge."""
    _require_model(context, body.model)
    source = Text(body.prompt) if body.prompt is not None else Conversation(turns(body.messages or ()))
    async with context.reads.enter(Key(caller)):
        tokens = await context.prompts.tokens(source)
        limit = context.services.engine.info.context_length
        reply = TokenizeResponse(tokens=tokens, count=len(tokens), max_model_len=limit)
        return await context.lanes.reads.run(partial(json_response, reply))


@router.post("/detokenize", responses={200: {"model": DetokenizeResponse}})
async def detokenize(body: DetokenizeRequest, context: ContextDep, caller: CallerDep) -> Response:
    """The text of token ids."""
    _require_model(context, body.model)
    async with context.reads.enter(Key(caller)):
        return await context.lanes.reads.run(partial(_detokenized, context, body))


def _detokenized(context: Context, body: DetokenizeRequest) -> Response:
    """Blocks: runs on a thread."""
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
