"""Files that a verb writes at its end, opened before it begins.

A long run must not end with "permission denied". What is written goes to a file
beside the one that is named, which takes its place when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from silly.cli.command import Failure

__all__ = ["Output"]


class Output:
    """One file to be written; ``-`` is standard output."""

    def __init__(self, path: str, option: str) -> None:
        """Open it. Raises Failure, naming *option*, where it could not be written."""
        self.path = path
        self._option = option
        self._part: str | None = None
        if path == "-":
            return
        try:
            if Path(path).exists() and not Path(path).is_file():
                with open(path, "a", encoding="utf-8"):  # noqa: PTH123 - /dev/null, a pipe
                    return
            if Path(path).exists():
                with open(path, "a", encoding="utf-8"):  # noqa: PTH123
                    pass
            folder, name = os.path.split(path)
            descriptor, self._part = tempfile.mkstemp(prefix=f".{name}.", dir=folder or ".")
            os.close(descriptor)
        except OSError as error:
            raise Failure(f"{option}: cannot write {path!r}: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Write *text* as the whole of it. Raises Failure."""
        try:
            if self.path == "-":
                sys.stdout.write(text)
                return
            Path(self._part or self.path).write_text(text, encoding="utf-8")
            if self._part is not None:
                mask = os.umask(0)
                os.umask(mask)
                Path(self._part).chmod(0o666 & ~mask)
                Path(self._part).replace(self.path)
                self._part = None
        except OSError as error:
            raise Failure(f"{self._option}: cannot write {self.path!r}: {error.strerror}") from None

    def discard(self) -> None:
        """Leave nothing behind, if it was not written."""
        if self._part is not None:
            with contextlib.suppress(OSError):
                Path(self._part).unlink()
            self._part = None
