"""Whatever fits the OpenAPI document, and whatever does not: no server error, and every answer as documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kan.checkpoint.directory import Checkpoint
from kb.encoder.minilm import MiniLMEncoder
from tests.server.live import Live, listening
from tests.server.support import MODEL, build_services

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
OPERATIONS = 31
EXAMPLES = 12
EMBEDDED = ("/v1/embeddings", "/v1/rerank", "/v1/score")


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_: schemathesis.SerializationContext, value: object) -> bytes:
    return str(value).encode()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, tiny: Checkpoint, encoder: MiniLMEncoder) -> Iterator[Live]:
    services = build_services(tmp_path_factory.mktemp("document"), tiny, encoder)
    with listening(services, min_version_wait_s=0.01, request_timeout_s=30) as live:
        yield live
        live.until_idle()


def paths(live: Live) -> dict[str, Any]:
    document = schemathesis.openapi.from_url(f"{live.url}/openapi.json").raw_schema
    return dict(document["paths"])


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_operation(live: Live, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.query)):
            continue  # nothing that could be wrong

        @seed(1)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                tame(case.path, case.body)
            case.call_and_validate(checks=list(CHECKS))

        check()


def tame(path: str, body: dict[str, Any]) -> None:
    """Names models that exist, or all would end as 404, and asks for little, or some would take too long."""
    if "model" in body:
        body["model"] = "all-minilm-l6-v2" if path in EMBEDDED else MODEL
    if path.endswith("completions"):
        body.pop("max_completion_tokens", None)
        body["max_tokens"] = 2
    if path == "/v1/responses":
        body["max_output_tokens"] = 2


def test_every_operation_is_documented(live: Live) -> None:
    assert sum(len(item) for item in paths(live).values()) == OPERATIONS
    operations = [operation for item in paths(live).values() for operation in item.values()]
    assert all(operation["summary"] and "200" in operation["responses"] for operation in operations)
    assert not any("422" in operation["responses"] for operation in operations)
