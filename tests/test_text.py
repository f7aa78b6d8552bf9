"""Text that a peer chose is shown on one line, without control characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.text import printable

pytestmark = pytest.mark.no_engine

any_text = st.text(st.characters(exclude_categories=()))  # including lone surrogates


@given(any_text)
def test_no_control_character_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(char)[0] == "C" for char in shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()  # no lone surrogate
    assert printable(shown) == shown


@given(any_text)
def test_escaped_text_can_be_decoded(text: str) -> None:
    no_backslash = text.replace("\\", "/")
    shown = printable(no_backslash).encode("ascii", "backslashreplace").decode("unicode_escape")
    assert shown == no_backslash


@given(st.text(st.characters(categories=("L", "M", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/tmp/a\nERROR forged", r"unix:/tmp/a\x0aERROR forged"),
        ("\x1b]0;title\x07\x9b2J\x7f", r"\x1b]0;title\x07\x9b2J\x7f"),
        ("\u2028\u2029\u202e\u2066\u200f", r"\u2028\u2029\u202e\u2066\u200f"),
        ("\udc80\U000e0001", r"\udc80\U000e0001"),
        ("grün 世界 😀 \\n\u00a0", "grün 世界 😀 \\n\u00a0"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_kept_characters_are_not_escaped() -> None:
    assert printable("a\tb\n\x1b", keep="\n\t") == "a\tb\n\\x1b"
