from collections.abc import Sequence
from typing import Any

def write_each(streams: list[Any], data: bytes) -> Sequence[int]: ...
