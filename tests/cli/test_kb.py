"""The `kb` commands do the same on a running server and on a store directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from loadtests.client import Target
from server.cli import app

Kb = Callable[..., Result]


class ByteEncoder:
    """ρ as the counts of letters: cheap, and texts with the same words are close."""

    dimension = 26
    fingerprint = "byte-encoder"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([[1 + text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        normalised: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return normalised


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("server.cli.local.MiniLMEncoder", ByteEncoder)
    directory = tmp_path / "kb"
    directory.mkdir()
    return directory


@pytest.fixture(params=["store", "server"])
def kb(request: pytest.FixtureRequest) -> Kb:
    """Runs a `kb` command on one of the two; a store is empty, the server's knowledge is rolled back to nothing."""
    if request.param == "store":
        where = ["--store", str(request.getfixturevalue("store"))]
    else:
        server: Target = request.getfixturevalue("server")
        where = ["--server", server.url]

    def run(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(app, ["kb", *arguments, *where], input=input)

    _done(run("rollback", "0", "--yes"))
    return run


def _done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def _json(result: Result) -> Any:
    return json.loads(_done(result).stdout)


def test_add_get_replace_delete(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "tower", "--metadata", '{"source": "survey"}'))
    first = _json(kb("get", "tower", "--json"))
    assert (first["text"], first["metadata"], first["expires_at"]) == ("The tower is red.", {"source": "survey"}, None)
    _done(kb("add", "The tower is blue.", "--id", "tower", "--expires-at", "2099-01-01T00:00:00Z"))
    second = _json(kb("get", "tower", "--json"))
    assert second["text"] == "The tower is blue."
    assert second["expires_at"] == 4070908800.0
    assert second["version"] > first["version"]
    assert second["created_at"] == first["created_at"]
    assert "blue" in _done(kb("get", "tower")).stdout
    _done(kb("delete", "tower"))
    assert kb("get", "tower").exit_code == 3


def test_only_the_version_that_was_read_is_replaced_or_deleted(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "tower", "--if-version", "0"))
    version = _json(kb("get", "tower", "--json"))["version"]
    for arguments in (["add", "It is blue.", "--id", "tower"], ["delete", "tower"]):
        refused = kb(*arguments, "--if-version", str(version + 1))
        assert refused.exit_code == 5
        assert f"is at version {version}" in refused.stderr
    _done(kb("add", "The tower is blue.", "--id", "tower", "--if-version", str(version)))
    assert kb("delete", "tower", "--if-version", str(version)).exit_code == 5
    assert kb("delete", "tower", "--if-version", "0").exit_code == 2
    second = _json(kb("get", "tower", "--json"))
    assert second["text"] == "The tower is blue."
    _done(kb("delete", "tower", "--if-version", str(second["version"])))
    assert kb("get", "tower").exit_code == 3


def test_an_id_is_made_up_if_none_is_given(kb: Kb) -> None:
    made = [_done(kb("add", "The tower is red.")).stderr.split()[0] for _ in range(2)]
    assert len(set(made)) == 2
    assert _json(kb("get", made[1], "--json"))["text"] == "The tower is red."


def test_namespaces_are_apart(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "tower", "-n", "north"))
    assert kb("get", "tower").exit_code == 3
    assert _json(kb("get", "tower", "-n", "north", "--json"))["namespace"] == "north"


def test_missing(kb: Kb) -> None:
    for command in (("get", "nobody"), ("delete", "nobody")):
        result = kb(*command)
        assert result.exit_code == 3
        assert "nobody" in result.stderr


def test_search_finds_the_nearest_first(kb: Kb) -> None:
    _done(kb("add", "zzz quiz buzz", "--id", "far"))
    _done(kb("add", "The tower is red.", "--id", "near"))
    hits = _json(kb("search", "The tower is red.", "--min-score", "-1", "--json"))
    assert [hit["fact"]["id"] for hit in hits] == ["near", "far"]
    assert hits[0]["score"] == pytest.approx(1.0, abs=0.02)
    assert hits[0]["score"] > hits[1]["score"]
    top = _json(kb("search", "The tower is red.", "--top-k", "1", "--json"))
    assert [hit["fact"]["id"] for hit in top] == ["near"]
    assert "near" in _done(kb("search", "The tower is red.")).stdout


def test_search_goes_by_words_if_asked(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "near"))
    _done(kb("add", "Spare parts have the code XK-4471.", "--id", "code"))
    (hit,) = _json(kb("search", "tell me about xk4471", "--retrieval", "lexical", "--json"))
    assert (hit["fact"]["id"], hit["lexical"]) == ("code", 1.0)
    assert _json(kb("search", "tell me about xk4471", "--json"))[0] == hit
    dense = _json(kb("search", "What colour is it?", "--retrieval", "dense", "--min-score", "-1", "--json"))
    assert {one["fact"]["id"] for one in dense} == {"near", "code"}
    assert kb("search", "tower", "--retrieval", "psychic").exit_code == 2


def test_search_takes_a_filter(kb: Kb) -> None:
    for town in ("Velm", "Ostra"):
        _done(kb("add", "The tower is red.", "--id", town, "--metadata", json.dumps({"town": town})))
    wanted = json.dumps({"town": {"eq": "Ostra"}})
    (hit,) = _json(kb("search", "The tower is red.", "--filter", wanted, "--json"))
    assert hit["fact"]["id"] == "Ostra"
    refused = kb("search", "tower", "--filter", '{"town": {"near": 1}}')
    assert refused.exit_code == 1
    assert "filter.town.near" in refused.stderr
    assert kb("search", "tower", "--filter", "[]").exit_code == 2


def test_export_and_import_are_inverse(kb: Kb, tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": f"fact-{i:03d}", "text": f"The tower {i} is red – or [bold]grün[/].", "namespace": "import"})
        for i in range(300)
    ]
    source = tmp_path / "in.ndjson"
    source.write_text("\n".join(lines), "utf-8")
    assert "300 facts imported" in _done(kb("import", str(source))).stderr
    exported = tmp_path / "out.ndjson"
    assert "300 facts exported" in _done(kb("export", str(exported), "-n", "import")).stderr
    found = {row["id"]: row["text"] for row in map(json.loads, exported.read_text("utf-8").splitlines())}
    assert found == {row["id"]: row["text"] for row in map(json.loads, lines)}
    _done(kb("rollback", "0", "--yes"))
    _done(kb("import", str(exported)))
    _done(kb("export", str(tmp_path / "again.ndjson"), "-n", "import"))
    assert (tmp_path / "again.ndjson").read_bytes() == exported.read_bytes()
    assert not list(tmp_path.glob("*.part"))
    assert "[bold]grün[/]" in _done(kb("get", "fact-007", "-n", "import")).stdout


def test_stdin_and_stdout(kb: Kb) -> None:
    _done(kb("import", "-", input='{"id": "tower", "text": "The tower is red."}\n'))
    assert json.loads(_done(kb("export", "-")).stdout)["text"] == "The tower is red."


def test_a_bad_line_is_named(kb: Kb) -> None:
    result = kb("import", "-", input='{"id": "a", "text": "Good."}\n{"id": "b"}\n')
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert "Traceback" not in result.output


def test_history_of_a_fact_and_of_the_store(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "chronicle"))
    _done(kb("add", "The tower is blue.", "--id", "chronicle"))
    _done(kb("delete", "chronicle"))
    rows = _json(kb("history", "chronicle", "--limit", "3", "--json"))
    assert [row["text"] for row in rows] == [None, "The tower is blue.", "The tower is red."]
    versions = [row["version"] for row in rows]
    assert versions == sorted(versions, reverse=True)
    older = _json(kb("history", "chronicle", "--limit", "1", "--before", str(versions[0]), "--json"))
    assert older == rows[1:2]
    store = _json(kb("history", "--limit", "3", "--json"))
    assert [row["version"] for row in store] == versions
    assert "blue" in _done(kb("history", "chronicle")).stdout


def test_rollback(kb: Kb) -> None:
    _done(kb("add", "The tower is red.", "--id", "tower"))
    before = _json(kb("get", "tower", "--json"))["version"]
    _done(kb("add", "The tower is blue.", "--id", "tower"))
    refused = kb("rollback", str(before), input="n\n")
    assert refused.exit_code == 1
    assert _json(kb("get", "tower", "--json"))["text"] == "The tower is blue."
    _done(kb("rollback", str(before), input="y\n"))
    assert _json(kb("get", "tower", "--json"))["text"] == "The tower is red."
    unknown = kb("rollback", "999999", "--yes")
    assert unknown.exit_code == 1
    assert "999999" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("add", "", "--id", "x"), 1, "text"),
        (("add", "Text.", "--id", "white space"), 1, "id"),
        (("add", "Text.", "--metadata", "[1]"), 2, "--metadata"),
        (("add", "Text.", "--metadata", "{"), 2, "--metadata"),
        (("add", "Text.", "--expires-at", "tomorrow"), 2, "--expires-at"),
        (("add", "Text.", "--expires-at", "2031-01-01"), 2, "--expires-at"),
        (("import", "/no/such/file"), 1, "/no/such/file"),
        (("export", "/no/such/directory/file"), 1, "/no/such/directory/file"),
        (("rollback", "-1", "--yes"), 2, "VERSION"),
    ],
)
def test_refusals_name_what_is_wrong(kb: Kb, arguments: tuple[str, ...], code: int, named: str) -> None:
    result = kb(*arguments)
    assert result.exit_code == code, result.output
    assert named.lower() in result.stderr.lower()
    assert "Traceback" not in result.output


def test_no_server() -> None:
    result = CliRunner().invoke(app, ["kb", "get", "x", "--server", "http://127.0.0.1:9"])
    assert result.exit_code == 4
    assert "kalmagrove serve" in result.stderr


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1", "http://[::1"])
def test_an_address_that_is_none(address: str) -> None:
    result = CliRunner().invoke(app, ["kb", "get", "x", "--server", address])
    assert result.exit_code == 4
    assert "Traceback" not in result.output


def test_no_store(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["kb", "get", "x", "--store", str(tmp_path / "nothing")])
    assert result.exit_code == 3
    assert not (tmp_path / "nothing").exists()


def test_a_store_that_is_open_elsewhere(store: Path) -> None:
    from kb.store import Store

    with Store.open(store, ByteEncoder()):
        result = CliRunner().invoke(app, ["kb", "get", "x", "--store", str(store)])
    assert result.exit_code == 1
    assert "--server" in result.stderr


def test_accept_log_opens_a_store_that_lost_its_head_marker(store: Path) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["kb", *arguments])

    _done(run("add", "The ferry leaves at nine.", "--id", "ferry", "--store", str(store)))
    (store / "facts.db.head").unlink()
    refused = run("get", "ferry", "--store", str(store))
    assert refused.exit_code == 1
    assert "accept-log" in refused.output
    assert run("verify", str(store)).exit_code == 1
    assert "1 facts" in _done(run("accept-log", str(store), "--yes")).output
    assert "sound, with 1 facts at version 1" in _done(run("verify", str(store))).output
    assert "nine" in _done(run("get", "ferry", "--store", str(store))).output


def test_backup_and_restore(store: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, ["kb", *map(str, arguments)])

    _done(run("add", "The ferry leaves at nine.", "--id", "ferry", "--store", store))
    file, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    assert "1 facts at version 1 backed up" in _done(run("backup", store, file)).output
    again = run("backup", store, file)
    assert again.exit_code == 5
    assert "--overwrite" in again.output
    assert "1 facts at version 1 restored" in _done(run("restore", file, elsewhere)).output
    assert run("restore", file, elsewhere).exit_code == 5
    _done(run("restore", file, elsewhere, "--overwrite"))
    assert "nine" in _done(run("get", "ferry", "--store", elsewhere)).output
    file.write_bytes(file.read_bytes()[:-1])
    damaged = run("restore", file, tmp_path / "new")
    assert damaged.exit_code == 1
    assert "backup" in damaged.output
    assert "Traceback" not in damaged.output
