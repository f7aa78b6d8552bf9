"""Preconditions and ranges: RFC 9110, sections 13 and 14."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.net.http.conditional import Unsatisfiable, precondition, requested_range

pytestmark = pytest.mark.no_engine

TAG = '"abc"'
MODIFIED = 1_700_000_000
DATE = formatdate(MODIFIED, usegmt=True)
EARLIER = formatdate(MODIFIED - 1, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"if-none-match": TAG}, 304),
        ({"if-none-match": f'"x", W/{TAG}'}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, None),
        ({"if-none-match": "abc"}, None),
        ({"if-none-match": '"x"', "if-modified-since": DATE}, None),  # the tag decides
        ({"if-modified-since": DATE}, 304),
        ({"if-modified-since": EARLIER}, None),
        ({"if-modified-since": "yesterday"}, None),
        ({"if-modified-since": "Tue Nov 14 22:13:20 2023"}, 304),  # asctime
        ({"if-modified-since": "Tuesday, 14-Nov-23 22:13:20 GMT"}, 304),  # RFC 850
        ({"if-match": TAG}, None),
        ({"if-match": f"W/{TAG}"}, 412),
        ({"if-match": "*"}, None),
        ({"if-match": '"x"'}, 412),
        ({"if-match": '"x"', "if-none-match": TAG}, 412),
        ({"if-match": TAG, "if-unmodified-since": EARLIER}, None),
        ({"if-unmodified-since": EARLIER}, 412),
        ({"if-unmodified-since": DATE}, None),
        ({"if-unmodified-since": "Mon, 99 Foo 2023 99:99:99 GMT"}, None),
    ],
)
def test_preconditions(headers: dict[str, str], status: int | None) -> None:
    assert precondition(headers, TAG, MODIFIED) == status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=0-0", (0, 1)),
        ("bytes=3-5", (3, 3)),
        ("Bytes=9-99", (9, 1)),
        ("bytes=-3", (7, 3)),
        ("bytes=-99", (0, 10)),
        ("bytes=5-3", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=0x1-2", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_ranges(text: str, expected: tuple[int, int] | None) -> None:
    assert requested_range({"range": text}, TAG, MODIFIED, 10) == expected


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-11", "bytes=-0"])
def test_ranges_behind_the_end(text: str) -> None:
    with pytest.raises(Unsatisfiable):
        requested_range({"range": text}, TAG, MODIFIED, 10)
    with pytest.raises(Unsatisfiable):
        requested_range({"range": "bytes=0-"}, TAG, MODIFIED, 0)
    assert requested_range({"if-none-match": '"other"'}, TAG, MODIFIED, 10) is None


@pytest.mark.parametrize(
    ("validator", "is_taken"),
    [
        (TAG, True),
        (f"W/{TAG}", False),
        ('"x"', False),
        (DATE, True),
        (EARLIER, False),
        ("x", False),
    ],
)
def test_if_range(validator: str, is_taken: bool) -> None:
    headers = {"range": "bytes=1-2", "if-range": validator}
    assert requested_range(headers, TAG, MODIFIED, 10) == ((1, 2) if is_taken else None)


def test_the_date_of_the_present_second_identifies_nothing() -> None:
    now = int(time.time()) + 60
    headers = {"range": "bytes=1-2", "if-range": formatdate(now, usegmt=True)}
    assert requested_range(headers, TAG, now, 10) is None


@given(st.text("bytes=-0123456789, ", max_size=20), st.integers(0, 50))
def test_any_range_is_a_part_of_the_content(text: str, size: int) -> None:
    try:
        found = requested_range({"range": text}, TAG, MODIFIED, size)
    except Unsatisfiable:
        return
    if found is not None:
        start, length = found
        assert 0 <= start < start + length <= size


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50))
def test_a_range_is_what_a_slice_is(first: int, last: int, size: int) -> None:
    content = bytes(range(size))
    try:
        found = requested_range({"range": f"bytes={first}-{last}"}, TAG, MODIFIED, size)
    except Unsatisfiable:
        assert not content[first : last + 1]
        return
    if last < first:
        assert found is None
    else:
        assert found is not None
        assert content[found[0] :][: found[1]] == content[first : last + 1]
