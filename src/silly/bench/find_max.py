"""Searching for the highest rate that a server holds: pure logic, given a way to try one.

Rates are doubled until one fails, then the space between the best that held and
the least that failed is halved (in ratio) until they are as near as is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, Final

from silly.bench.asserts import Claim

__all__ = ["holds", "search"]

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


def holds(result: dict[str, Any], claims: list[Claim]) -> tuple[bool, str]:
    """Tell whether the rate of *result* was held, and if not, why not."""
    open_loop = result["open_loop"]
    if result["errors"]["total"]:
        return False, f"{result['errors']['total']} errors"
    for claim in claims:
        if not claim.holds(result):
            return False, f"{claim.name} was {claim.actual_text(result)}"
    if open_loop["unsent"] > _UNSENT * open_loop["scheduled"]:
        return False, f"{open_loop['unsent']} requests were never sent"
    if result["rate"] < _KEPT * open_loop["asked_rate"]:
        return False, f"only {result['rate']:.0f} /s were answered"
    return True, ""
