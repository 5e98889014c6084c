"""`kalmagrove eval attention` on the tiny model: losses are the model's, whatever the chunks; what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kan.checkpoint.directory import Checkpoint
from kan.model import KANModel
from kan.tokenizer import Tokenizer
from lab.errors import DataError
from lab.evaluation.long_context.reading import read
from lab.evaluation.long_context.texts import retrievals, windows
from server.cli import app
from tests.tiny import base_logits


def compressed(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prose = " ".join(f"Chapter {number} of the tale." for number in range(900))
    compressed(tmp_path / "novels100.txt.gz", prose)
    compressed(tmp_path / "wikitext2_valid.txt.gz", prose[::-1])
    rows = [{"ordered_kv_records": [[f"key-{i}-{j}", f"value {i * j}"] for j in range(9)]} for i in range(3)]
    compressed(tmp_path / "kv-retrieval-75_keys.jsonl.gz", "\n".join(map(json.dumps, rows)))
    return tmp_path


def test_losses_are_the_models(tiny: Checkpoint) -> None:
    model = KANModel(tiny.config, tiny.tensors(), dtype=torch.float64)
    tokens = torch.randint(3, 259, (700,), generator=torch.Generator().manual_seed(2)).tolist()
    done: list[int] = []
    full, few, enough = read(model, tokens, 650, [None, 1, 1000], 100, done.append)
    logits = base_logits(model, tokens)[49:-1]
    expected = -torch.log_softmax(logits, dim=-1)[torch.arange(650), torch.tensor(tokens[50:])]
    for reading in (full, enough):
        torch.testing.assert_close(reading.losses, expected, atol=1e-10, rtol=1e-10)
        assert reading.likeliest.tolist() == (logits.argmax(-1) == torch.tensor(tokens[50:])).tolist()
    assert sum(done) == 96 + 3 * (699 - 96), "what is the same for all is read once"
    assert not torch.allclose(few.losses, expected, atol=1e-3)
    torch.testing.assert_close(few.losses[:200], expected[:200], atol=1e-10, rtol=1e-10)


def test_each_is_as_alone(tiny: Checkpoint) -> None:
    """Whatever was read over the same pages before."""
    model = KANModel(tiny.config, tiny.tensors(), dtype=torch.float64)
    tokens = torch.randint(3, 259, (500,), generator=torch.Generator().manual_seed(3)).tolist()
    together = read(model, tokens, 90, [2, None, 1], 0, lambda _: None)
    for blocks, found in zip([2, None, 1], together, strict=True):
        (alone,) = read(model, tokens, 90, [blocks], 0, lambda _: None)
        assert torch.equal(found.losses, alone.losses)


def test_texts(data: Path, tiny: Checkpoint) -> None:
    tokenizer = Tokenizer(tiny.tokenizer_path)
    first, last = windows(data / "novels100.txt.gz", tokenizer, 2, 300)
    assert len(first.tokens) == len(last.tokens) == 300
    assert first.tokens != last.tokens
    one, other = retrievals(data / "kv-retrieval-75_keys.jsonl.gz", tokenizer, 2)
    assert tokenizer.decode(one.tokens).endswith('Key: "key-0-2"\nCorresponding value: "value 0')
    assert tokenizer.decode(other.tokens[-other.asked :]) == "value 6"
    with pytest.raises(DataError, match="more than it has"):
        list(windows(data / "novels100.txt.gz", tokenizer, 2, 10**6))
    with pytest.raises(DataError, match="fewer than 4 rows"):
        list(retrievals(data / "kv-retrieval-75_keys.jsonl.gz", tokenizer, 4))


def test_a_run(data: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = ["eval", "attention", "--data", str(data), "--model", str(tiny.directory), "--blocks", "1,1000"]
    command += ["--threshold", "0", "--window", "400", "--documents", "1", "--retrievals", "1", "--json", str(report)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    findings = json.loads(report.read_text())["findings"]
    novels = findings["perplexity: novels, 1 windows of 400 tokens"]
    assert novels["above full attention, k = 1000 (%)"] == pytest.approx(0, abs=1e-3)
    assert novels["perplexity, k = 1"] != pytest.approx(novels["perplexity, full attention"], rel=1e-4)
    assert findings["retrieval: 75 keys, 1 lists"]["nats per token of the value, k = 1000"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "nowhere is no directory"),
        (["--data", ".", "--blocks", "0", "--window", "99"], "at least 1"),
        (["--data", ".", "--blocks", "some"], "--blocks: 'some' is no list of numbers"),
        (["--data", ".", "--window", "5000"], "1024 tokens at most"),
        (["--data", ".", "--window", "9", "--prose", "poems"], "--prose: 'poems' is none of novels, wikitext"),
        (
            ["--data", ".", "--window", "9", "--kernels", "native"],
            "--kernels: native kernels: head_dim 12",
        ),
    ],
)
def test_refusals(tiny: Checkpoint, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["eval", "attention", "--model", str(tiny.directory), *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr
