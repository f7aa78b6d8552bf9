"""Searching for the highest rate that a server holds: pure logic, given a way to try one.

Rates are doubled until one fails, then the space between the best that held and
the least that failed is halved (in ratio) until they are as near as is asked for.

Where a rate fails and the client was at its own limit, that says nothing of the
server: the rate is tried again with a client that reaches further (`stronger`). If
there is none, the verdict says that the client was the limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._units import counted, text_of_count
from silly.bench.asserts import Claim
from silly.bench.plan import Plan

__all__ = ["Try", "judge", "limit", "plans", "search", "stronger"]

_KEPT: Final = 0.98  # of the asked rate must be reached
_UNSENT: Final = 0.001  # of the requests may be unsent


def search(start: float, precision: float, most: int) -> Generator[float, bool, float | None]:
    """Yield rates to try, be sent whether each held; return the highest that did, or None.

    Args:
        start: the first rate.
        precision: how near the answer must be, as a share of it.
        most: how many rates are tried at most.
    """
    held: float | None = None
    failed: float | None = None
    rate = start
    for _ in range(most):
        if (yield rate):
            held = rate
            if failed is None:
                rate *= 2
                continue
        else:
            failed = rate
            if held is None:
                rate /= 2
                if rate < 1:
                    return None
                continue
        assert held is not None
        assert failed is not None
        if failed / held <= 1 + precision:
            return held
        rate = math.sqrt(held * failed)
    return held


@dataclass(frozen=True, slots=True)
class Try:
    """One rate that was tried, and what came of it."""

    rate: float
    answered: float
    """Replies a second."""
    holds: bool
    why: str
    """Why it did not hold; else empty."""
    limit: str
    """What it failed for: ``"server"`` or ``"client"``; empty if it held."""
    workers: int
    busy_poll: bool


def judge(plan: Plan, result: dict[str, Any], claims: Sequence[Claim]) -> Try:
    """Return whether the rate of *result* was held, and if not, why not."""
    why = _failure(result, claims)
    limit = ""
    if why:
        by_client = result["client"]["is_limit"] and not result["errors"]["total"]
        limit = "client" if by_client else "server"
    rate = result["open_loop"]["asked_rate"]
    return Try(rate, result["rate"], not why, why, limit, plan.workers, plan.busy_poll)


def _failure(result: dict[str, Any], claims: Sequence[Claim]) -> str:
    open_loop = result["open_loop"]
    if result["errors"]["total"]:
        return counted(result["errors"]["total"], "error")
    for claim in claims:
        if not claim.holds(result):
            return f"{claim.name} was {claim.actual_text(result)}"
    if open_loop["unsent"] > _UNSENT * open_loop["scheduled"]:
        return f"{counted(open_loop['unsent'], 'request')} never sent"
    if result["rate"] < _KEPT * open_loop["asked_rate"]:
        return f"only {text_of_count(result['rate'])} /s answered"
    return ""


def plans(plan: Plan, precision: float, most: int, cores: int) -> Generator[Plan, Try, None]:
    """Yield *plan* with the rates to try, from its own rate on; be sent what came of each.

    Args:
        plan: with the first rate.
        precision: see `search`.
        most: see `search`.
        cores: how many the client and the server have; 0 leaves the client as it is.
    """
    assert plan.rate is not None
    rates = search(plan.rate, precision, most)
    rate = next(rates)
    while True:
        plan = dataclasses.replace(plan, rate=rate)
        one = yield plan
        while cores and one.limit == "client" and (further := stronger(plan, cores)):
            plan = further
            one = yield plan
        try:
            rate = rates.send(one.holds)
        except StopIteration:
            return


def stronger(plan: Plan, cores: int) -> Plan | None:
    """Return *plan* with a client that may reach further on *cores*; None if there is none.

    More workers, while one core is left to the server; then workers that sleep, for polling
    takes cores from whatever else runs there; then more of these.
    """
    workers = min(2 * plan.workers, plan.most_connections)
    if plan.workers < workers <= (cores - 1 if plan.busy_poll else cores):
        return dataclasses.replace(plan, workers=workers)
    return dataclasses.replace(plan, busy_poll=False) if plan.busy_poll else None


def limit(tries: Sequence[Try]) -> str:
    """Return what kept the search from a higher rate: the server, the client, or its end."""
    held = max((each.rate for each in tries if each.holds), default=0.0)
    failed = [each for each in tries if not each.holds and each.rate > held]
    if not failed:
        return "tries"
    least = min(each.rate for each in failed)
    limits = {each.limit for each in failed if each.rate == least}
    return "server" if "server" in limits else "client"
