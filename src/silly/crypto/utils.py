"""Random keys for protocols."""

from __future__ import annotations

import secrets
import string
from typing import Final

from silly._values.arguments import size

__all__ = ["randomkey"]

_ALPHABET: Final = (string.ascii_letters + string.digits).encode()


def randomkey(n: int) -> bytes:
    r"""Return *n* random letters and digits, safe within a line (never ``b"\n"``).

    The source is the operating system's cryptographic generator (`secrets`). Each
    byte has about 5.95 bits of entropy.

    Raises:
        TypeError, ValueError: *n* is not an int of 0 or more.
    """
    return bytes(secrets.choice(_ALPHABET) for _ in range(size(n, "n")))
