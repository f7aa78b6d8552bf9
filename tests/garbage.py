"""Objects that only the garbage collector frees."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["collecting"]


@contextlib.contextmanager
def collecting(
    counts: Callable[[Any], bool] = lambda _: False,
) -> Iterator[Callable[[], Counter[str]]]:
    """Give what returns the objects of silly that were left to the collector, by type.

    Others count if *counts* says so.
    """
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def left() -> Counter[str]:
        gc.collect()
        return Counter(
            f"{type(each).__module__}.{type(each).__name__}"
            for each in gc.garbage
            if type(each).__module__.startswith("silly.") or counts(each)
        )

    try:
        yield left
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
