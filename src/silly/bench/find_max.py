"""The search for the highest rate that a server can hold: pure logic, without I/O.

The rate is doubled until one fails; then the interval between the highest that held
and the lowest that failed is bisected (geometrically) to the precision asked for.

A failure says nothing about the server if the client was at its own limit. The rate is
then tried again with a stronger client (`stronger`); if there is none, the verdict is
that the client was the limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from silly._values.units import counted, text_of_count
from silly.bench.asserts import Claim
from silly.bench.plan import Plan

__all__ = ["Try", "judge", "limit", "plans", "search", "stronger"]

_KEPT: Final = 0.98  # the share of the rate that must be reached
_UNSENT: Final = 0.001  # the share of requests that may be unsent


def search(start: float, precision: float, most: int) -> Generator[float, bool, float | None]:
    """Yield rates to try, take whether each held; return the highest that did, or None.

    Args:
        start: the first rate.
        precision: how close the answer must be, as a share of it.
        most: how many rates to try at most.
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
    """One rate that was tried, and the outcome."""

    rate: float
    answered: float
    """Replies per second."""
    holds: bool
    why: str
    """Why the rate did not hold; empty if it did."""
    limit: str
    """What was the limit: ``"server"`` or ``"client"``; empty if the rate held."""
    workers: int
    busy_poll: bool


def judge(plan: Plan, result: dict[str, Any], claims: Sequence[Claim]) -> Try:
    """Return whether the rate of *result* held, and if not, why."""
    why = _failure(plan, result, claims)
    limit = ""
    if why:
        by_client = result["client"]["is_limit"] and not result["errors"]["total"]
        limit = "client" if by_client else "server"
    rate = result["open_loop"]["asked_rate"]
    return Try(rate, result["rate"], not why, why, limit, plan.workers, plan.busy_poll)


def _failure(plan: Plan, result: dict[str, Any], claims: Sequence[Claim]) -> str:
    open_loop = result["open_loop"]
    if result["errors"]["total"]:
        return counted(result["errors"]["total"], "error")
    for claim in claims:
        if not claim.holds(result):
            return f"{claim.name} was {claim.actual_text(result)}"
    if open_loop["unsent"] > _UNSENT * open_loop["scheduled"]:
        return f"{counted(open_loop['unsent'], 'request')} never sent"
    each = plan.connections if plan.fan_out else 1  # how often a message is received
    if result["rate"] < _KEPT * open_loop["asked_rate"] * each:
        return f"only {text_of_count(result['rate'])} /s answered"
    return ""


def plans(plan: Plan, precision: float, most: int, cores: int) -> Generator[Plan, Try, None]:
    """Yield *plan* with each rate to try, its own first; expect to be sent the outcome.

    Args:
        plan: the plan, with the first rate.
        precision: see `search`.
        most: see `search`.
        cores: the number of cores of client and server; 0 leaves the client as it is.
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
    """Return *plan* with a stronger client for *cores*; None if there is none.

    First come more workers, while one core is left for the server; then workers that sleep,
    because polling takes cores from everything else; then more of these.
    """
    workers = min(2 * plan.workers, plan.most_connections)
    if plan.workers < workers <= (cores - 1 if plan.busy_poll else cores):
        return dataclasses.replace(plan, workers=workers)
    return dataclasses.replace(plan, busy_poll=False) if plan.busy_poll else None


def limit(tries: Sequence[Try]) -> str:
    """Return what kept the search from a higher rate: ``"server"``, ``"client"`` or ``"tries"``."""
    held = max((each.rate for each in tries if each.holds), default=0.0)
    failed = [each for each in tries if not each.holds and each.rate > held]
    if not failed:
        return "tries"
    least = min(each.rate for each in failed)
    limits = {each.limit for each in failed if each.rate == least}
    return "server" if "server" in limits else "client"
