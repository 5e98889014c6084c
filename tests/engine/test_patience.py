"""Facts that nobody waits for: their steps are given up when somebody comes, and are small beside others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from kan.kernels.choice import choose_kernels
from kan.model import KANModel
from server.engine.decoding.choice import Choice
from server.engine.paged.options import EngineOptions
from server.engine.paged.scheduler import BESIDE_OTHERS
from server.engine.paged.sequence import Generation
from server.engine.paged.worker import Worker
from server.engine.pages.files import PageFiles
from tests.engine.harness import FACTS, World, answer, assert_same


class Bench:
    """A worker without a thread, and what it has done."""

    def __init__(self, world: World) -> None:
        options = EngineOptions(dtype="float64", pages=512, max_fact_tokens=48)
        config = options.configured(world.checkpoint.config)
        kernels = choose_kernels("torch", config, torch.float64)
        model = KANModel(config, world.checkpoint.tensors(), dtype=torch.float64, kernels=kernels)
        self.world = world
        self.emitted: list[object] = []
        self.worker = Worker(
            model, world.prompt.preamble, None, options, PageFiles([]), lambda _, chunk: self.emitted.append(chunk)
        )

    def encode(self, *texts: str, bulk: bool) -> list[str]:
        """Returns which are done, so far and later."""
        done: list[str] = []
        for text in texts:
            self.worker.encode(self.world.fact(text), lambda _, text=text: done.append(text), bulk=bulk)  # type: ignore[misc]
        return done

    def ask(self, text: str) -> Generation:
        request = self.world.request(text)
        end = frozenset(self.world.checkpoint.config.eos_token_ids)
        generation = Generation(request, Choice(request.sampling, request.prompt, self.world.prompt.tokenizer, end))
        self.worker.submit(generation)
        return generation


@torch.inference_mode()
def test_a_step_that_nobody_waits_for_gives_way(world: World) -> None:
    bench = Bench(world)
    done = bench.encode(*FACTS, bulk=True)
    layers: list[int] = []
    assert bench.worker.step(lambda: layers.append(1), lambda: True)
    assert (len(layers), done) == (1, []), "it was given up before its first layer"
    bench.worker.audit(None)
    while len(done) < len(FACTS):
        assert bench.worker.step()
    bench.worker.audit({world.fact(text).key for text in FACTS})


@torch.inference_mode()
def test_a_step_that_somebody_waits_for_does_not(world: World) -> None:
    for bulk, asked in ((False, False), (True, True)):
        bench = Bench(world)
        done = bench.encode(FACTS[0], bulk=bulk)
        if asked:
            bench.ask("Who?")
        assert bench.worker.step(somebody_came=lambda: True)
        assert done or bench.emitted, "the step went to its end"


@torch.inference_mode()
def test_few_tokens_beside_others(world: World) -> None:
    bench = Bench(world)
    done = bench.encode(*FACTS, bulk=True)
    asked = bench.ask("Who?")
    encodings = list(bench.worker._scheduler.encodings.values())
    computed = 0
    while asked.stage.value != "ended":
        assert bench.worker.step()
        grown = sum(one.computed for one in encodings)
        assert 0 < grown - computed <= BESIDE_OTHERS or len(done) == len(FACTS)
        computed = grown


async def test_what_was_given_up_is_made_right(world: World, tmp_path: Path) -> None:
    """Questions come all the while; the pages are those of an engine that had peace."""
    asked = world.request("How much?", *FACTS)
    async with world.engine() as engine:
        expected = await answer(engine, asked)
    async with world.engine(busy_step_tokens=40) as engine:
        making = asyncio.create_task(engine.encode([world.fact(text) for text in FACTS], bulk=True))
        while not making.done():
            await answer(engine, world.request("Who?", max_tokens=1))
        assert_same([await answer(engine, asked)], [expected])
