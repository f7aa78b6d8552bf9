"""What ``silly bench find-max`` has tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from silly._values.units import counted, duration_text, text_of_count
from silly.bench import find_max as finding
from silly.bench.asserts import Claim
from silly.bench.plan import Plan

__all__ = ["CLAIM_FAILS", "ERRORS", "Search", "lines_of"]

CLAIM_FAILS: Final = 1  # exit codes
ERRORS: Final = 4
CLIENT_LIMIT: Final = 5


class Search:
    """The state of a search: the rates tried, and the best result."""

    def __init__(self) -> None:
        self._tries: list[finding.Try] = []
        self._best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None

    def add(self, plan: Plan, result: dict[str, Any], claims: Sequence[Claim]) -> finding.Try:
        """Judge *result* and store it."""
        one = finding.judge(plan, result, claims)
        self._tries.append(one)
        self._last = result
        if one.holds:
            self._best = result
        return one

    @property
    def _rate(self) -> float | None:
        return None if self._best is None else float(self._best["open_loop"]["asked_rate"])

    @property
    def _limit(self) -> str:
        return finding.limit(self._tries)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the verdict."""
        if self._rate is None:
            yield "no rate held"
        else:
            yield f"highest rate that held: {text_of_count(self._rate)} /s"
        if self._limit == "client":
            yield "the client was the limit: the server may hold more than that"

    def published(self) -> dict[str, Any] | None:
        """Return the result of the best rate, or of the last try if none held; None before any."""
        result = self._best or self._last
        if result is None:
            return None
        tries = [asdict(each) for each in self._tries]
        return {**result, "find_max": {"rate": self._rate, "limit": self._limit, "tries": tries}}

    @property
    def code(self) -> int:
        """The exit code."""
        if self._last is not None and self._last["errors"]["wrong"]:
            return ERRORS
        if self._limit == "client":
            return CLIENT_LIMIT
        return 0 if self._best is not None else CLAIM_FAILS


def lines_of(one: finding.Try, result: dict[str, Any]) -> Iterator[str]:
    """Yield what is printed of *one* try with its *result*."""
    found = result["latency"]["percentiles"]
    yield (
        f"{text_of_count(one.rate):>12}{text_of_count(result['rate']):>12}"
        f"{duration_text(found.get('50')):>10}{duration_text(found.get('99')):>10}"
        f"   {one.why or 'holds'}{_client(one)}"
    )
    for text in result["errors"]["first"][:3]:
        yield f"  {text}"


def _client(one: finding.Try) -> str:
    if one.limit != "client":
        return ""
    workers = counted(one.workers, "worker")
    return f" (the client was the limit: {workers}, {'polling' if one.busy_poll else 'sleeping'})"
