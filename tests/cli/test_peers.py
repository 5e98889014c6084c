"""`bench peers`: what is not installed, weights in others' formats, a whole run with a stand-in for vLLM's program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.prompt import ChatMessage, PromptBuilder
from server.cli import app
from server.cli.peer_weights import PeerWeightsError, gguf_files, hugging_face_directory, packaged_gguf
from tests.loadtests.stub_server import STAND_IN
from tests.tiny import tiny_checkpoint


def _bench(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", "peers", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_peer_that_is_asked_for_must_be_installed(tmp_path: Path) -> None:
    code, _, told = _bench("--peer", "vllm", "--environments", tmp_path)
    assert code == 1
    assert "vllm" in told
    assert "make peers" in told


def test_an_unknown_peer_is_refused_by_name(tmp_path: Path) -> None:
    code, _, told = _bench("--peer", "cobol", "--environments", tmp_path)
    assert code == 2
    assert "cobol" in told
    assert "llama-server-q4_1" in told


def test_a_model_that_is_not_packaged_needs_a_file(tiny: Checkpoint) -> None:
    with pytest.raises(PeerWeightsError, match="--gguf FILE"):
        packaged_gguf(tiny)


@pytest.mark.slow
def test_a_run_leaves_out_what_is_not_installed(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "data" / "models", max_position_embeddings=4096)
    program = tmp_path / ".venv-vllm" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{STAND_IN}", "utf-8")
    program.chmod(0o755)
    report_path, picture = tmp_path / "peers.json", tmp_path / "peers.png"
    code, shown, told = _bench(
        *("--environments", tmp_path, "--data-dir", tmp_path / "data", "--model", "tiny"),
        *("--count", 1, "--waves", 0, "--facts", 16, "--json", report_path, "--plot", picture),
    )
    assert code == 0, told
    assert "left out: llama-server-q4_1" in told
    report = json.loads(report_path.read_text("utf-8"))
    assert list(report["notes"]) == ["kalmagrove-mounted", "kalmagrove-pasted", "vllm"]
    assert report["series"]["first token (ms): vllm"]["n"] == 1
    assert "| vllm" in shown
    assert picture.is_file()


@pytest.mark.slow
def test_vllms_directory_gives_the_same_prompt(tiny: Checkpoint, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    directory = hugging_face_directory(tiny, tmp_path / "view")
    spoken = [("system", "Be brief."), ("user", "Where is Ålesund?")]
    ours = PromptBuilder.from_checkpoint(tiny).chat([ChatMessage(*one) for one in spoken], with_knowledge=False)
    messages = [{"role": role, "content": content} for role, content in spoken]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ours
    assert tokenizer.eos_token_id == tiny.config.eos_token_ids[0]
    assert AutoConfig.from_pretrained(directory).architectures == ["LlamaForCausalLM"]
    assert (directory / "model.safetensors").samefile(tiny.directory / "model.safetensors")


@pytest.mark.slow
@pytest.mark.smollm2
def test_llama_cpp_gets_no_other_models_weights(tiny: Checkpoint, smollm2: Checkpoint, tmp_path: Path) -> None:
    source, nothing = packaged_gguf(smollm2), tmp_path / "llama-quantize"
    with pytest.raises(PeerWeightsError, match="does not have the weights"):
        gguf_files(tiny, source, ["q4_1"], nothing, tmp_path)
    assert gguf_files(smollm2, source, ["q4_1"], nothing, tmp_path) == {"q4_1": source}
