"""What a line of a key file binds a key to."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.http.key_line import Owner, options_of, owner_of
from server.http.keys import KeyFileError, KeyRing, Keys, KeyWeights, hash_key
from server.service.access import EVERYTHING, Access

DIGEST = hash_key("kg-secret").hex()


@pytest.mark.parametrize(
    ("options", "access"),
    [
        ("", EVERYTHING),
        (" weight=2", EVERYTHING),
        (" read=* edit=*", EVERYTHING),
        (" read=b,a", Access(frozenset("ab"), frozenset(), "b")),
        (" read=b,default", Access(frozenset(("b", "default")), frozenset(), "default")),
        (" edit=a", Access(frozenset(), frozenset("a"), "a")),
        (" read=* edit=a", Access(None, frozenset("a"), "default")),
        ("\tedit=*   read=a", Access(frozenset("a"), None, "a")),
    ],
)
def test_what_it_opens(options: str, access: Access) -> None:
    assert owner_of("ann", options).access == access


@pytest.mark.parametrize(
    "options",
    [" read=", " read=a,", " read=a,*", " read=a read=b", "read=a", " write=a", " a", " weight=-1", " weight=nan",
     " weight=1e9", f" read={'a' * 65}", " read=" + ",".join("a" * 1001), " read=a/b"],
)  # fmt: skip
def test_a_bad_line_is_named_and_opens_nothing(options: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# keys\nann:{DIGEST}{options}\n")
    with pytest.raises(KeyFileError, match="line 2"):
        KeyRing.read(path)


def test_what_is_written_is_read_back() -> None:
    assert owner_of("ann", options_of("a,b", "a", 0.25)) == Owner(
        "ann", Access(frozenset("ab"), frozenset("a"), "a"), 0.25
    )
    assert options_of(None, None, None) == ""


def test_shares_follow_the_file_and_come_before_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann:{DIGEST} weight=0.5\nbob:{DIGEST}\n")
    keys = Keys.read(path, None)
    weights = KeyWeights(keys, {"ann": 3.0, "bob": 4.0})
    assert [weights.get(name, 1.0) for name in ("ann", "bob", "eve")] == [0.5, 4.0, 1.0]
    path.write_text(f"ann:{DIGEST} weight=0.125\n")
    keys.refresh(even_unchanged=True)
    assert weights.get("ann", 1.0) == 0.125


def test_an_owner_has_one_weight(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann:{DIGEST} weight=0.5\nann:{DIGEST} weight=2\n")
    with pytest.raises(KeyFileError, match="line 2: another weight of ann"):
        KeyRing.read(path)
