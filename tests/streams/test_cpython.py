"""CPython's own tests of asyncio's streams pass with silly's.

The copy is that of the interpreter in use; its package `test` may not be installed.
"""

from __future__ import annotations

import asyncio
import types
import unittest
import warnings
from typing import Any

import pytest

from silly import streams

cpython = pytest.importorskip("test.test_asyncio.test_streams")

# The tests that do not pass, each with the reason.
DIFFERENT: dict[str, str] = {}


class _Asyncio(types.ModuleType):
    """`asyncio` with silly's streams."""

    def __getattr__(self, name: str) -> Any:
        return getattr(streams if name in streams.__all__ else asyncio, name)


NAMES = unittest.TestLoader().getTestCaseNames(cpython.StreamTests)


@pytest.mark.parametrize("name", NAMES)
def test_cpython(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpython, "asyncio", _Asyncio("asyncio"))
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cpython.StreamTests(name).run(result)
    if result.skipped:
        pytest.skip(result.skipped[0][1])
    problems = [text for _, text in (*result.failures, *result.errors)]
    if name in DIFFERENT:
        assert problems, f"{name} passes: it need not be listed"
    else:
        assert not problems, problems[0]


def test_the_list_has_no_other_names() -> None:
    assert DIFFERENT.keys() <= set(NAMES)
    assert len(NAMES) > 60
