"""Models, embeddings, tokens."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from kb.encoder.minilm import MiniLMEncoder
from tests.server.support import MODEL, Service, error

EMBEDDER = "all-minilm-l6-v2"


async def test_models(service: Service) -> None:
    listed = (await service.http.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == [MODEL, EMBEDDER]
    for model in listed["data"]:
        assert (await service.http.get(f"/v1/models/{model['id']}")).json() == model
    missing = await service.http.get("/v1/models/other")
    assert missing.status_code == 404
    assert error(missing)["code"] == "model_not_found"


async def test_embeddings_are_the_encoders(service: Service, encoder: MiniLMEncoder) -> None:
    texts = ["one", "another text"]
    request = {"model": EMBEDDER, "input": texts}
    plain = (await service.http.post("/v1/embeddings", json=request)).json()
    packed = (await service.http.post("/v1/embeddings", json={**request, "encoding_format": "base64"})).json()
    vectors = np.array([item["embedding"] for item in plain["data"]], dtype=np.float32)
    np.testing.assert_array_equal(vectors, encoder.embed(texts))
    unpacked = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in packed["data"]]
    np.testing.assert_array_equal(np.stack(unpacked), vectors)
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [item["index"] for item in plain["data"]] == [0, 1]


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"dimensions": 100}, "dimensions", 400),
        ({"input": ["ok", "word " * 300]}, "input[1]", 400),
        ({"input": ["x"] * 2049}, "input", 400),
        ({"input": [1, 2]}, "input", 400),
        ({"input": ""}, "input", 400),
        ({"model": "other"}, "model", 404),
        ({"encoding_format": "hex"}, "encoding_format", 400),
    ],
)
async def test_embedding_refusals(service: Service, fields: dict[str, object], param: str, status: int) -> None:
    response = await service.http.post("/v1/embeddings", json={"model": EMBEDDER, "input": "x", **fields})
    assert response.status_code == status
    assert error(response)["param"] == param


async def test_tokens_there_and_back(service: Service) -> None:
    text = "Zorvex né 🚋 <|im_end|>"
    tokens = (await service.http.post("/tokenize", json={"model": MODEL, "prompt": text})).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == 1024
    back = (await service.http.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
    assert back == {"prompt": text}


async def test_a_conversation_is_counted_as_it_is_used(service: Service) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    counted = (await service.http.post("/tokenize", json={"messages": messages})).json()["count"]
    answer = (await service.chat("Hello")).json()
    assert answer["usage"]["prompt_tokens"] == counted


async def test_unknown_token(service: Service) -> None:
    response = await service.http.post("/detokenize", json={"tokens": [1, 259]})
    assert error(response)["param"] == "tokens[1]"
