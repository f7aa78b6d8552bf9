"""W3C Trace Context, level 1: what is believed."""

from __future__ import annotations

import pytest

from silly.net.http.trace_context import TraceContext

pytestmark = pytest.mark.no_engine

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_valid_one_is_sent_on_as_it_came() -> None:
    found = TraceContext.parse([VALID], ["a=1,b@c=2 3", " x*/y=z "])
    assert found == TraceContext(TRACE, PARENT, True, "a=1,b@c=2 3,x*/y=z")
    assert found is not None
    assert found.headers() == {"traceparent": VALID, "tracestate": "a=1,b@c=2 3,x*/y=z"}
    plain = TraceContext.parse([VALID[:-1] + "2"], [])
    assert plain == TraceContext(TRACE, PARENT, False)
    assert plain is not None
    assert plain.headers() == {"traceparent": f"00-{TRACE}-{PARENT}-00"}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        VALID.upper(),
        VALID + "-00",
        VALID + "x",
        VALID[:-1],
        VALID.replace("-", "_"),
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"01-{TRACE}-{PARENT}-01x",
        VALID + "\n",
    ],
)
def test_of_an_invalid_one_nothing_is_believed(parent: str) -> None:
    assert TraceContext.parse([parent], ["a=1"]) is None


def test_it_may_be_there_once() -> None:
    assert TraceContext.parse([VALID, VALID], []) is None
    assert TraceContext.parse([], ["a=1"]) is None


def test_later_versions_are_read_like_the_first() -> None:
    for parent in (f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-03-more-to-come"):
        found = TraceContext.parse([parent], [])
        assert found == TraceContext(TRACE, PARENT, True)
        assert found is not None
        assert found.headers()["traceparent"] == VALID


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1,,  ,b=2\t"], "a=1,b=2"),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
        ([",".join(f"k{n}=v" for n in range(33))], ""),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a="], ""),
        (["a=b=c"], ""),
        (["a=é"], ""),
        (["a@B=1"], ""),
        (["a" * 257 + "=1"], ""),
        (["a=" + "v" * 256], "a=" + "v" * 256),
        (["a=" + "v" * 257], ""),
    ],
)
def test_the_state_is_kept_whole_or_not_at_all(states: list[str], kept: str) -> None:
    found = TraceContext.parse([VALID], states)
    assert found is not None
    assert found.state == kept
