"""Keys: what is printed opens what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli import app
from server.http.key_line import Owner
from server.http.keys import KeyRing
from server.service.access import Access


def _create(name: str, *options: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["key", "create", name, *options])
    assert result.exit_code == 0, result.stderr
    return result.stderr.strip().rpartition(" ")[2], result.stdout


def test_the_line_knows_the_key(tmp_path: Path) -> None:
    (first, first_line), (second, second_line) = _create("alice"), _create("bob-2")
    path = tmp_path / "keys"
    path.write_text(first_line + second_line)
    ring = KeyRing.read(path)
    assert (ring.find(first), ring.find(second)) == (Owner("alice"), Owner("bob-2"))
    assert ring.find(first[:-1]) is None


def test_the_key_is_not_in_the_line() -> None:
    secret, line = _create("alice")
    assert len(secret) >= 40
    assert secret not in line


@pytest.mark.parametrize("name", ["", "with space", "a:b", "x" * 65, "naïve"])
def test_bad_names(name: str) -> None:
    result = CliRunner().invoke(app, ["key", "create", name])
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_bound_key(tmp_path: Path) -> None:
    secret, line = _create("alice", "--read", "acme", "--read", "open", "--edit", "acme", "--weight", "0.25")
    path = tmp_path / "keys"
    path.write_text(line)
    access = Access(frozenset({"acme", "open"}), frozenset({"acme"}), "acme")
    assert KeyRing.read(path).find(secret) == Owner("alice", access, 0.25)


@pytest.mark.parametrize("options", [("--read", "a b"), ("--edit", "x/y"), ("--read", "a,*"), ("--weight", "0")])
def test_what_a_key_cannot_be_bound_to(options: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["key", "create", "alice", *options])
    assert result.exit_code == 2
    assert result.stdout == ""
