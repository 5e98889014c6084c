"""`kalmagrove kb add-documents` and its kin, against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadtests.client import Target
from server.cli import app
from server.cli.document_files import files_in, id_of


def pdf(text: str) -> bytes:
    """One page that says this."""
    stream = f"BT /F 12 Tf 10 50 Td ({text}) Tj ET"
    objects = [
        "<</Type /Catalog /Pages 2 0 R>>",
        "<</Type /Pages /Kids [3 0 R] /Count 1>>",
        "<</Type /Page /Parent 2 0 R /MediaBox [0 0 300 100] /Contents 4 0 R /Resources <</Font <</F 5 0 R>> >> >>",
        f"<</Length {len(stream)}>> stream\n{stream}\nendstream",
        "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ]
    body, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj {one} endobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    tail = f"trailer <</Root 1 0 R /Size {len(objects) + 1}>>\nstartxref\n{len(body)}\n%%EOF\n"
    return (body + head + table + tail).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "guide").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.md").write_text("hidden")
    (tmp_path / "guide" / "intro.md").write_text("# Gates\n\nThe north gate opens at six.\n")
    (tmp_path / "page.html").write_text("<h1>Boats</h1><p>The boat leaves at nine.</p>")
    (tmp_path / "paper.pdf").write_bytes(pdf("The gate of the depot is green."))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def kb(server: Target, *arguments: str) -> Result:
    where = ["--server", server.url, "-n", "documents"]
    return CliRunner().invoke(
        app, ["kb", *arguments, *where, *(["--key", server.admin_key] if server.admin_key else [])]
    )


def listed(server: Target) -> dict[str, int]:
    rows: list[dict[str, Any]] = json.loads(kb(server, "documents", "--json").stdout)
    return {row["id"]: row["facts"] for row in rows}


def test_a_directory_becomes_documents(server: Target, folder: Path) -> None:
    added = kb(server, "add-documents", str(folder), "--metadata", '{"shelf": 3}')
    assert added.exit_code == 0, added.stderr
    assert "3 documents of 3 facts, 3 of them new" in added.stderr
    assert listed(server) == {"guide:intro.md": 1, "page.html": 1, "paper.pdf": 1}
    wanted = '{"document.id": {"eq": "paper.pdf"}, "shelf": {"eq": 3}}'
    found = json.loads(kb(server, "search", "gate", "--filter", wanted, "--min-score", "-1", "--json").stdout)
    assert [hit["fact"]["text"] for hit in found] == ["The gate of the depot is green."]
    assert "page.html" in kb(server, "documents").stdout

    (folder / "page.html").write_text("<h1>Boats</h1><p>The boat leaves at ten.</p>")
    (folder / "empty.txt").write_text("")
    again = kb(server, "add-documents", str(folder), "--metadata", '{"shelf": 3}')
    assert again.exit_code == 1
    assert "empty.txt" in again.stderr
    assert "3 documents of 3 facts, 1 of them new" in again.stderr
    assert "gone" in kb(server, "delete-document", "page.html").stderr
    assert kb(server, "delete-document", "page.html").exit_code == 3
    assert kb(server, "delete-document", "paper.pdf", "--if-version", "1").exit_code == 5


def test_files_that_are_none(server: Target, tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"no PDF")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    result = kb(server, "add-documents", str(tmp_path))
    assert result.exit_code == 1
    assert "bad.pdf" in result.stderr
    assert "latin.txt" in result.stderr
    assert kb(server, "add-documents", str(tmp_path / "missing")).exit_code == 1


def test_ids_are_of_the_path_and_differ(folder: Path) -> None:
    assert [file.id for file in files_in(folder)] == ["guide:intro.md", "page.html", "paper.pdf"]
    assert [file.id for file in files_in(folder / "page.html")] == ["page.html"]
    names = ["a b.md", "a-b.md", "a:b.md", "a/b.md", "é.md", "_x.md", "x" * 200, "y/" + "x" * 200]
    ids = [id_of(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(len(one) <= 100 and one[0].isalnum() for one in ids)
