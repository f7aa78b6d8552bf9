from collections.abc import Sequence
from typing import Any

def write_each(streams: list[Any], data: bytes, limit: int) -> Sequence[int]: ...
