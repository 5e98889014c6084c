"""KANModel without knowledge is transformers' Llama.

Truth is transformers' own model moved to float64. It computes norms and rotary angles in float32 even then, so these
two are replaced by their formulas. In float64 we must agree to rounding; in float32 and bfloat16 we may be as far from
the truth as transformers itself is in that type, with a little room for a different order of additions.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cpu.linear import Linear
from kan.checkpoint.directory import Checkpoint
from kan.config import KANConfig
from kan.kernels.reference import ReferenceAttention
from kan.kernels.torch_attention import TorchAttention
from kan.kernels.torch_kernels import TorchKernels
from kan.model import KANModel
from kan.prompt import ChatMessage, PromptBuilder
from tests.tiny import base_logits, tiny_config, tiny_tensors

transformers = pytest.importorskip("transformers")
initialization = pytest.importorskip("transformers.initialization")

ROUNDING = 1e-13
"""Room in float64, relative to the largest logit: measured are 3e-15 (tiny) and 8e-15 (SmolLM2). float32 anywhere on
the way would show as 1e-7, a wrong formula as far more."""

SLACK = 2
"""Our float32 or bfloat16 error may be this many times transformers' own (measured: 0.5 to 1.5)."""

SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "multi-head": {"num_kv_heads": 4},
    "multi-query": {"num_kv_heads": 1, "num_layers": 3},
    "grouped, wide heads": {"num_heads": 6, "num_kv_heads": 2, "head_dim": 32},
    "narrow heads": {"num_heads": 3, "num_kv_heads": 3, "head_dim": 2, "hidden_size": 30},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "head_dim": 64, "num_layers": 1},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True},
    "all biases, own head": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "own head": {"tie_word_embeddings": False},
    "padded vocabulary": {"vocab_size": 263, "intermediate_size": 7},
    "slow rotation, large eps": {"rope_theta": 1e6, "rms_norm_eps": 1e-2},
}


def llama(config: KANConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    configuration = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        attn_implementation="sdpa",
    )
    with initialization.no_init_weights():  # every weight is loaded below
        model = transformers.LlamaForCausalLM(configuration)
    head = {"lm_head.weight": weights["model.embed_tokens.weight"]} if config.tie_word_embeddings else {}
    model = model.to(dtype)  # before the weights are loaded, or float64 ones would pass through float32
    model.load_state_dict(weights | head)
    return model.eval()


class _ExactRotary(torch.nn.Module):
    def __init__(self, config: KANConfig) -> None:
        super().__init__()
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        self.frequencies = 1 / config.rope_theta**exponents

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * self.frequencies
        both = torch.cat((angles, angles), dim=-1)
        return both.cos(), both.sin()


class _ExactNorm(torch.nn.Module):
    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


def exact_llama(config: KANConfig, weights: dict[str, Tensor]) -> Any:
    model = llama(config, weights, torch.float64)
    model.model.rotary_emb = _ExactRotary(config)
    for layer in model.model.layers:
        layer.input_layernorm = _ExactNorm(layer.input_layernorm.weight, config.rms_norm_eps)
        layer.post_attention_layernorm = _ExactNorm(layer.post_attention_layernorm.weight, config.rms_norm_eps)
    model.model.norm = _ExactNorm(model.model.norm.weight, config.rms_norm_eps)
    return model


@torch.no_grad()
def their_logits(model: Any, tokens: list[int]) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def our_logits(
    config: KANConfig, weights: dict[str, Tensor], tokens: list[int], dtype: torch.dtype, **options: Any
) -> Tensor:
    return base_logits(KANModel(config, weights, dtype=dtype, **options), tokens)


def error(found: Tensor, truth: Tensor) -> float:
    """Largest difference, relative to the largest logit."""
    return float((found.double() - truth).abs().max() / truth.abs().max())


def some_tokens(config: KANConfig, count: int) -> list[int]:
    return torch.randint(config.vocab_size, (count,), generator=torch.Generator().manual_seed(7)).tolist()


@pytest.fixture(params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def shape(request: pytest.FixtureRequest) -> KANConfig:
    return tiny_config(**SHAPES[request.param])


@pytest.mark.parametrize("attention", [ReferenceAttention, TorchAttention])
def test_float64(shape: KANConfig, attention: Any) -> None:
    weights, tokens = tiny_tensors(shape, dtype=torch.float64), some_tokens(shape, 37)
    truth = their_logits(exact_llama(shape, weights), tokens)
    ours = our_logits(shape, weights, tokens, torch.float64, kernels=TorchKernels(attention))
    assert error(ours, truth) < ROUNDING


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_no_farther_from_the_truth_than_transformers(shape: KANConfig, dtype: torch.dtype, packed: bool) -> None:
    # Weights already rounded, so that only arithmetic differs.
    weights = {name: tensor.to(dtype) for name, tensor in tiny_tensors(shape, dtype=torch.float64).items()}
    tokens = some_tokens(shape, 37)
    truth = their_logits(exact_llama(shape, weights), tokens)
    theirs = error(their_logits(llama(shape, weights, dtype), tokens), truth)
    ours = error(our_logits(shape, weights, tokens, dtype, packed=packed), truth)
    assert ours <= SLACK * theirs


@pytest.mark.parametrize("chunks", [(), (1,), (16, 16), (5, 11, 1, 1), (31,)])
def test_chunks_do_not_matter(chunks: tuple[int, ...]) -> None:
    config = tiny_config()
    weights, tokens = tiny_tensors(config, dtype=torch.float64), some_tokens(config, 50)
    model = KANModel(config, weights, dtype=torch.float64)
    truth = their_logits(exact_llama(config, weights), tokens)
    assert error(base_logits(model, tokens, chunks), truth) < ROUNDING


def test_far_positions() -> None:
    """The whole context window, where a rotary table in half precision would be wrong."""
    config = tiny_config(max_position_embeddings=700)
    weights, tokens = tiny_tensors(config, dtype=torch.float64), some_tokens(config, 700)
    truth = their_logits(exact_llama(config, weights), tokens)
    assert error(our_logits(config, weights, tokens, torch.float64), truth) < ROUNDING
    theirs = error(their_logits(llama(config, weights, torch.float32), tokens), truth)
    assert error(our_logits(config, weights, tokens, torch.float32), truth) <= SLACK * theirs


@pytest.mark.parametrize(
    "change",
    [{"rope_theta": 10_100.0}, {"rms_norm_eps": 1.1e-5}, {"num_kv_heads": 4, "num_heads": 4}],
    ids=["theta", "eps", "heads"],
)
def test_the_comparison_would_notice(change: dict[str, Any]) -> None:
    """A slightly wrong model is far outside the tolerance: the tests above can fail."""
    config = tiny_config(num_kv_heads=2)
    weights, tokens = tiny_tensors(config, dtype=torch.float64), some_tokens(config, 37)
    truth = their_logits(exact_llama(config, weights), tokens)
    wrong = tiny_config(**({"num_kv_heads": 2} | change))
    if "num_kv_heads" in change:  # query heads paired with the wrong key heads
        weights = {
            name: torch.cat((t[12:], t[:12])).repeat(2, 1) if "k_proj" in name or "v_proj" in name else t
            for name, t in weights.items()
        }
    assert error(our_logits(wrong, weights, tokens, torch.float64), truth) > 1000 * ROUNDING


@pytest.fixture(scope="module")
def smollm2_case(smollm2: Checkpoint) -> tuple[KANConfig, dict[str, Tensor], list[int], Tensor]:
    """Configuration, weights, a short conversation and its true logits."""
    question = ChatMessage("user", "What is the capital of France? Answer in one word.")
    tokens = PromptBuilder.from_checkpoint(smollm2).chat([question], with_knowledge=False)
    weights = smollm2.tensors()
    return smollm2.config, weights, tokens, their_logits(exact_llama(smollm2.config, weights), tokens)


@pytest.mark.smollm2
def test_smollm2_float64(smollm2_case: Any) -> None:
    config, weights, tokens, truth = smollm2_case
    ours = our_logits(config, weights, tokens, torch.float64)
    assert error(ours, truth) < ROUNDING


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of a module's scope, so that what is made of it is made once."""
    kind: torch.dtype = request.param
    return kind


@pytest.fixture(scope="module")
def their_smollm2(smollm2_case: Any, dtype: torch.dtype) -> Any:
    config, weights, _, _ = smollm2_case
    return llama(config, weights, dtype)


@pytest.fixture(scope="module")
def our_smollm2(smollm2_case: Any, dtype: torch.dtype) -> KANModel:
    config, weights, _, _ = smollm2_case
    return KANModel(config, weights, dtype=dtype, packed=True)


@pytest.mark.smollm2
def test_smollm2_no_farther_from_the_truth_than_transformers(
    smollm2_case: Any, their_smollm2: Any, dtype: torch.dtype
) -> None:
    config, weights, tokens, truth = smollm2_case
    theirs = error(their_logits(their_smollm2, tokens), truth)
    assert error(our_logits(config, weights, tokens, dtype, packed=False), truth) <= SLACK * theirs


@pytest.mark.smollm2
def test_smollm2_packed_no_farther_from_the_truth_than_transformers(
    smollm2_case: Any, their_smollm2: Any, our_smollm2: KANModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed products round differently from plain ones, on some processors twice as much: both sides take the same."""
    _, _, tokens, truth = smollm2_case
    for module in their_smollm2.modules():
        if isinstance(module, torch.nn.Linear):
            monkeypatch.setattr(module, "forward", Linear(module.weight.detach()))
    theirs = error(their_logits(their_smollm2, tokens), truth)
    assert error(base_logits(our_smollm2, tokens), truth) <= SLACK * theirs


@pytest.mark.smollm2
def test_smollm2_knows_paris(smollm2: Checkpoint, smollm2_case: Any, our_smollm2: KANModel) -> None:
    config, _, tokens, truth = smollm2_case
    answer: list[int] = []
    while not set(config.eos_token_ids) & set(answer) and len(answer) < 12:
        answer.append(int(base_logits(our_smollm2, [*tokens, *answer])[-1].argmax()))
    assert answer[0] == int(truth[-1].argmax())
    assert "Paris" in PromptBuilder.from_checkpoint(smollm2).tokenizer.decode(answer)
