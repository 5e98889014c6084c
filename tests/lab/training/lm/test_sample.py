"""What is trained is what is served: the same logits in one differentiable pass as over pages, and gradients of all."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from kan.model import KANModel
from kan.prompt import PromptBuilder
from kan.tokenizer import Tokenizer
from lab.questions.scan import add_jump
from lab.questions.scan_words import NEW_VERBS, TEMPLATE, tokenizer_json
from lab.training.lm.sample import Sample, lay_out
from lab.training.lm.scan import ScanSamples
from lab.training.lm.weights import Trainable, initial_weights
from tests.kan.layout import Layout
from tests.lab.training.lm.plans import tiny_plan

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def samples() -> ScanSamples:
    config = tiny_plan().config
    prompt = PromptBuilder.for_model(config, Tokenizer(tokenizer_json()), TEMPLATE)
    return ScanSamples(add_jump().train, prompt, config.eos_token_ids[0], share=0.5, seed=3)


def served(model: KANModel, sample: Sample, preamble: Sequence[int]) -> torch.Tensor:
    """Logits of the reply's tokens, over pages."""
    layout = Layout(model)
    parts, start = [], 0
    if sample.facts:
        parts.append(layout.run(list(preamble))[0])
        start = len(preamble)
        parts += [layout.run(list(fact), start, parts[:1])[0] for fact in sample.facts]
        start += max(map(len, sample.facts))
    _, logits, _ = layout.run([*sample.prompt, *sample.reply[:-1]], start, parts)
    return logits[-len(sample.reply) :]


@pytest.mark.parametrize("group", [True, False])
def test_training_computes_what_is_served(samples: ScanSamples, group: bool) -> None:
    config = tiny_plan(group=group).config
    weights = {name: tensor.double() for name, tensor in initial_weights(config, 0).items()}
    rng = random.Random(0)
    long = next(one for one in add_jump().train if len(one.actions) == 30)
    chosen = [samples.taught(long, NEW_VERBS, rng), samples.plain(long), *samples.batch(0, 4)]
    assert len({len(one.facts) for one in chosen}) > 2, "padding, and different numbers of facts, are part of the test"
    model = KANModel(config, weights, dtype=DOUBLE)
    laid = lay_out(chosen, samples.preamble)
    found = laid.logits(Trainable(config, DOUBLE)(weights))
    wanted = torch.cat([served(model, one, samples.preamble) for one in chosen])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_every_weight_has_its_gradient(samples: ScanSamples) -> None:
    """As finite differences have it, through preamble, facts and context."""
    config = tiny_plan().config
    weights = {name: tensor.double().requires_grad_() for name, tensor in initial_weights(config, 1).items()}
    laid = lay_out(samples.batch(0, 4), samples.preamble)
    trainable = Trainable(config, DOUBLE)

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(laid.logits(trainable(weights)), laid.targets)

    loss().backward()  # type: ignore[no-untyped-call]
    directions = {name: torch.randn_like(tensor) for name, tensor in weights.items()}
    for name, tensor in weights.items():
        assert tensor.grad is not None, name
        slope = float((tensor.grad * directions[name]).sum())
        with torch.no_grad():
            plain, step = tensor.clone(), 1e-6 * directions[name]
            tensor.copy_(plain + step)
            above = float(loss())
            tensor.copy_(plain - step)
            below = float(loss())
            tensor.copy_(plain)
        assert slope == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8), name


def test_a_reply_is_exact_if_all_its_tokens_are_the_likeliest(samples: ScanSamples) -> None:
    laid = lay_out(samples.batch(0, 3), samples.preamble)
    logits = torch.nn.functional.one_hot(laid.targets, 300).float()
    assert laid.exact(logits).tolist() == [True] * 3
    wrong = int((laid.owners == 1).nonzero()[-1])
    logits[wrong] = logits[wrong].roll(1)
    assert laid.exact(logits).tolist() == [True, False, True]
