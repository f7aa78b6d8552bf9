"""`silly bench compare` compares two results, or rejects a file with a one-line message."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.bench.compare import lines
from silly.bench.histogram import Histogram
from silly.bench.plan import Plan
from silly.bench.published import load
from silly.bench.result import SCHEMA
from tests.bench.test_command import bench, one_line

pytestmark = pytest.mark.no_engine


def counted(*values: int) -> list[int]:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram.to_list()


RESULT: dict[str, Any] = {
    "schema": SCHEMA,
    "rate": 100.0,
    "latency": {"percentiles": {"50": 0.001, "90": 0.002, "99": 0.003, "99.9": 0.004}},
    "plan": Plan("127.0.0.1:1").to_dict(),
    "intervals": [
        {"phase": "measured", "length": 1.0, "requests": 2, "histogram": counted(1000 * n, 9**n)}
        for n in range(1, 8)
    ],
    "errors": {"total": 0},
    "client": {"is_limit": False},
}
NAMES = st.sampled_from(["schema", "rate", "length", "histogram", "percentiles", "50", "x"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(10**400), 1e308, 5e-324, -1, 2**63])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def compared(path: Path, text: str) -> list[str]:
    """The comparison of *text* with a result; nothing if it is rejected."""
    path.write_text(text)
    try:
        result = load(str(path))
    except ValueError:
        return []
    printed = [*lines(result, RESULT, draws=20), *lines(RESULT, result, draws=20)]
    assert len(printed) >= 4
    return printed


def changed(data: st.DataObject, value: Any) -> Any:
    """*value* with one part of it replaced or removed."""
    if not isinstance(value, dict | list) or not value or data.draw(st.integers(0, 3)) == 0:
        return data.draw(VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = data.draw(st.sampled_from(keys))
    if data.draw(st.integers(0, 3)) == 0:
        del value[key]
    else:
        value[key] = changed(data, value[key])
    return value


@given(st.data())
def test_a_changed_result_is_compared_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    result = copy.deepcopy(RESULT)
    for _ in range(data.draw(st.integers(1, 3))):
        result = changed(data, result)
    compared(tmp_path_factory.getbasetemp() / "changed.json", json.dumps(result))


@given(st.binary() | VALUES.map(json.dumps).map(str.encode))
def test_any_bytes_are_rejected(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a result of silly bench --json"):
        load(str(path))


TEXT = json.dumps(RESULT)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("100.0", "NaN"),
        TEXT.replace("100.0", "-Infinity"),
        TEXT.replace("100.0", "1e999"),
        TEXT.replace("100.0", "9" * 5000),
        TEXT.replace("100.0", "9" * 400),
        TEXT.replace("100.0", '"100"'),
        TEXT.replace("100.0", "true"),
        TEXT.replace('"is_limit": false', '"x": ' + "[" * 100_000 + "]" * 100_000),
        TEXT.replace('"is_limit": false', '"x": ' + "[" * 100 + "]" * 100),
        TEXT.replace('"histogram": [', '"histogram": [7, ', 1),
        TEXT.replace('"length"', '"width"', 1),
        "[" * 100_000,
        "null",
        "",
    ],
)
def test_anything_but_a_result_is_rejected(tmp_path: Path, text: str) -> None:
    assert compared(tmp_path / "x.json", text) == []


def test_a_result_is_compared(tmp_path: Path) -> None:
    printed = compared(tmp_path / "x.json", TEXT)
    assert len(printed) == 12
    assert all("noise" in line for line in printed if line.startswith(("rate", "p")))
    # A result of another version, with unknown fields.
    assert (
        compared(tmp_path / "x.json", TEXT.replace('"errors"', '"more": [1], "errors"')) == printed
    )


def test_the_command_prints_one_line(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(TEXT)
    bad.write_text(TEXT.replace('"length": 1.0', '"length": "long"'))
    assert one_line(bench("compare", good, bad, code=2)) == (
        f"silly bench compare: {str(bad)!r} is not a result of silly bench --json ({SCHEMA})\n"
    )
