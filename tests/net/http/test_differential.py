"""Changed requests of the corpus: h11 agrees, and splits make no difference (differential.py)."""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.limits import Limits
from tests.net.http.differential import check, check_splits
from tests.net.http.test_corpus import contents, names, with_host

pytestmark = pytest.mark.no_engine

# Small, so that short requests meet them.
SMALL: Final = Limits(max_head_bytes=150, max_headers=5, max_target_bytes=40, max_body_bytes=12)

FILES: Final = [
    data
    for name in names("valid") + names("invalid")
    if len(data := with_host(contents(name))) < 1000
]
PIECES: Final = [
    *(b"\r\n", b"\r", b"\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\x80", b"\xff"),
    *(b":", b",", b";", b'"', b"#", b"?", b"*", b"/", b"0", b"1", b"a"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"http://", b"OPTIONS", b"CONNECT", b"chunked", b"Host: b\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.1\r\n\r\n"),
]  # fmt: skip

places = st.floats(0, 1, exclude_max=True)
changes = st.lists(
    st.one_of(
        st.tuples(places, st.integers(0, 5), st.sampled_from(PIECES)),
        st.tuples(places, st.just(10_000), st.sampled_from(FILES)),
        st.tuples(places, st.integers(1, 5), st.just(b"")),
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return requests of the corpus, with some changes."""
    data = b"".join(draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=3)))
    for place, size, piece in draw(changes):
        at = int(place * (len(data) + 1))
        data = data[:at] + piece + data[at + size :]
    return data


@pytest.mark.parametrize("data", FILES)
def test_h11_agrees_about_the_corpus(data: bytes) -> None:
    check(data)


@given(requests())
def test_h11_agrees_about_what_is_like_it(data: bytes) -> None:
    check(data)


@given(requests(), st.integers(1, 60), st.randoms(use_true_random=False))
def test_splits_make_no_difference(data: bytes, number: int, choice: random.Random) -> None:
    cuts = sorted(choice.randrange(len(data) + 1) for _ in range(number))
    check_splits(data, cuts)
    check_splits(data, cuts, SMALL)
