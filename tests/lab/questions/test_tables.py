"""Tables of wordings are checked when they are read."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import pytest

from lab.errors import DataError
from lab.questions.fictional import Templates
from lab.questions.tables import Table, filled_with, read_table


class Example(Table):
    facts: tuple[Annotated[str, filled_with("s", "v")], ...]
    value: Templates = ()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        ("facts = [", "Invalid value"),
        ("", "facts"),
        ("facts = [1]", "valid string"),
        ('facts = ["{s} is {w}."]', "no others"),
        ('facts = ["It is so."]', "must have slots"),
        ('facts = ["{s is {v}."]', "facts.0"),
        ('facts = ["{s}"]\nvalues = "{city}"', "values"),
        ('facts = ["{s}"]\nvalue = "{town}"', "nothing makes {town}"),
        ('facts = ["{s}"]\nvalue = ["{2..}"]', "nothing makes {2..}"),
    ],
)
def test_a_bad_table_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, complaint: str
) -> None:
    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / "example.toml").write_text(content, "utf-8")
    with pytest.raises(DataError) as refused:
        read_table("example", Example)
    assert complaint in str(refused.value)
    assert "example.toml" in str(refused.value)
