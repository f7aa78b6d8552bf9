"""Whose headers are believed: the ``proxy_protocol`` of a listener, or what is set for all.

The flag ``--proxy-protocol`` of ``silly FILE.py`` and the environment variable
``SILLY_PROXY_PROTOCOL`` apply to listeners whose code does not say; the flag comes first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from silly._values.kinds import Kind
from silly.net.networks import NETWORKS, Networks, checked_networks

__all__ = ["PROXY_NETWORKS", "set_proxies", "trusted"]

_VARIABLE: Final = "SILLY_PROXY_PROTOCOL"


def _read(text: str) -> tuple[str, ...]:
    try:
        return checked_networks(NETWORKS.read(text), "", or_unix=True)
    except ValueError as error:
        why = str(error).removeprefix(": ")
        raise ValueError(f"{text!r} is not a list of networks: {why}") from None


PROXY_NETWORKS: Final = Kind(NETWORKS.metavar, _read, NETWORKS.text)

_flag: tuple[str, ...] | None = None


def set_proxies(networks: tuple[str, ...] | None) -> None:
    """Set what the command line gives; None: nothing."""
    global _flag  # noqa: PLW0603 - of the process
    _flag = networks


def trusted(networks: Sequence[str] | None) -> Networks | None:
    """Return the proxies in *networks*; of None, those that the flag or the environment sets.

    Returns:
        The networks; None if there are none: no header is looked for.

    Raises:
        TypeError, ValueError: *networks*, or the variable, is something else.
    """
    if networks is not None:
        networks = checked_networks(networks, "proxy_protocol", or_unix=True)
    elif _flag is not None:
        networks = _flag
    elif text := os.environ.get(_VARIABLE, ""):
        try:
            networks = PROXY_NETWORKS.parse(text)
        except ValueError as error:
            raise ValueError(f"{_VARIABLE}: {error}") from None
    return Networks(networks) if networks else None
