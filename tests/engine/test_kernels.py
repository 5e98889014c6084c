"""The engine with the compiled kernels: whole answers, with knowledge, batched and not."""

from __future__ import annotations

import pytest

from server.engine.protocol import GenerationRequest
from tests.engine.harness import FACTS, World, answers, one_by_one


async def test_answers_with_the_compiled_kernels(wide: World) -> None:
    """bfloat16 is too coarse for equal tokens in every batch, so what is compared is the same work done twice."""

    def requests() -> list[GenerationRequest]:
        return [
            wide.request("Where does line 4 end? " * 3),
            wide.request("Who runs the depot?", FACTS[2]),
            wide.request("How much?", *FACTS[:4], max_tokens=25),
        ]

    async with wide.engine(dtype="bfloat16", kernels="native") as engine:
        assert (engine.info.dtype, engine.info.kernels) == ("bfloat16", "native")
        first = await one_by_one(engine, requests())
        again = await one_by_one(engine, requests())
        together = await answers(engine, requests())
    assert [one.tokens for one in first] == [one.tokens for one in again]
    assert [len(one.tokens) for one in together] == [12, 12, 25]
    assert all(0 < share <= 1 for one in together for share in one.attention or ())


async def test_refuses_to_start_without_them(world: World) -> None:
    with pytest.raises(ValueError, match="native kernels: they compute in bfloat16, not float64"):
        world.start(kernels="native")
    async with world.engine(kernels="auto") as engine:
        assert engine.info.kernels == "torch"


async def test_torch_on_request(wide: World) -> None:
    async with wide.engine(dtype="bfloat16", kernels="torch") as engine:
        assert engine.info.kernels == "torch"
