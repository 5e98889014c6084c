"""POST /v1/rerank (/v2/rerank) and /v1/score: how near texts are to each other, by the encoder that retrieval uses."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from starlette.responses import Response

from kb.index.segment import Vectors
from server.http.errors import invalid
from server.http.routes.base import json_response, strict_router
from server.http.schemas.rerank import RankedResult, RerankRequest, RerankResponse, ScoreRequest, ScoreResponse
from server.service.admission import Key
from server.services import CallerDep, Context, ContextDep

router = strict_router()


@router.post("/v2/rerank", include_in_schema=False)  # where Cohere's newer clients ask the same
@router.post("/v1/rerank", responses={200: {"model": RerankResponse}})
async def rerank(body: RerankRequest, context: ContextDep, caller: CallerDep) -> Response:
    """Put texts in order of relevance to a query."""
    context.require_embedding_model(body.model)
    texts = body.texts
    vectors, tokens = await _embedded(context, caller, [body.query, *texts], lambda place: _ranked_param(body, place))
    scores = _scores(vectors[:1], vectors[1:])
    best = np.argsort(-scores, kind="stable")[: body.top_n]  # of equals, the first one first
    results: list[RankedResult] = [{"index": int(one), "relevance_score": float(scores[one])} for one in best]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    return json_response(
        RerankResponse(
            id=f"rerank-{uuid.uuid4().hex}",
            object="list",
            model=body.model,
            results=results,
            usage={"prompt_tokens": tokens, "total_tokens": tokens},
            meta={"billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}},
        )
    )


@router.post("/v1/score", responses={200: {"model": ScoreResponse}})
async def score(body: ScoreRequest, context: ContextDep, caller: CallerDep) -> Response:
    """How near the texts of each pair are."""
    context.require_embedding_model(body.model)
    count = len(body.first)
    texts = [*body.first, *body.second]
    vectors, tokens = await _embedded(context, caller, texts, lambda place: _scored_param(body, place))
    scores = _scores(vectors[:count], vectors[count:])
    return json_response(
        ScoreResponse(
            id=f"score-{uuid.uuid4().hex}",
            object="list",
            created=int(time.time()),
            model=body.model,
            data=[{"index": index, "object": "score", "score": float(one)} for index, one in enumerate(scores)],
            usage={"prompt_tokens": tokens, "total_tokens": tokens},
        )
    )


async def _embedded(
    context: Context, caller: str, texts: Sequence[str], param: Callable[[int], str]
) -> tuple[Vectors, int]:
    most = context.settings.max_embedding_inputs
    if len(texts) > most:
        name = param(len(texts) - 1).partition("[")[0]
        raise invalid(f"{name}: at most {most} texts in all on this server", name, "invalid_value")
    async with context.reads.enter(Key(caller)):
        return await context.embedding.of_inputs(caller, texts, param)


def _scores(first: Vectors, second: Vectors) -> npt.NDArray[np.float32]:
    """float32 [pairs]. The vectors have length 1; `first` has one row, or as many as `second`."""
    cosines: npt.NDArray[np.float32] = np.sum(first * second, axis=1, dtype=np.float32)
    return cosines.clip(-1.0, 1.0)


def _ranked_param(body: RerankRequest, place: int) -> str:
    if place == 0:
        return "query"
    document = f"documents[{place - 1}]"
    return document if isinstance(body.documents[place - 1], str) else f"{document}.text"


def _scored_param(body: ScoreRequest, place: int) -> str:
    count = len(body.first)
    name, given, at = ("text_1", body.text_1, place) if place < count else ("text_2", body.text_2, place - count)
    return name if isinstance(given, str) else f"{name}[{at}]"
