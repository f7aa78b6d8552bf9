"""Output files that are opened when a run begins, and written when it ends.

A long run must not end with "permission denied". Files are written in place, not
replaced, so devices, pipes, mount points, symbolic links and permissions stay as they
are. If writing fails in the end, the result is saved in a temporary file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from silly import stdio
from silly.cli.command import Failure

__all__ = ["Output"]

_STDOUT, _STDERR = 1, 2
_MODE: Final = 0o666  # less the umask


class Output:
    """An output file; ``-`` is standard output."""

    def __init__(self, path: str, option: str) -> None:
        """Open the file. Raises Failure, naming *option*, if it cannot be written."""
        self.path = path
        self._option = option
        self._is_new = False
        self._opened: int | None = None
        try:
            self._standard = _standard(path)
            if self._standard == _STDOUT and stdio.descriptor_of(sys.__stdout__) is None:
                raise Failure(f"{option}: standard output is closed")
            if self._standard is None:
                self._open()
            self._status = os.fstat(self._standard or self._descriptor)
        except OSError as error:
            raise Failure(f"{option}: cannot write {path!r}: {error.strerror}") from None

    @property
    def is_standard(self) -> bool:
        """True if this is standard output, under any name."""
        return self._standard == _STDOUT

    def is_same(self, other: Output) -> bool:
        """True if *other* would overwrite this file, or mix with it."""
        return os.path.samestat(self._status, other._status) and not _is_device(self._status)

    @property
    def _descriptor(self) -> int:
        assert self._opened is not None
        return self._opened

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._opened = os.open(self.path, flags)
        except FileNotFoundError:  # also the target of a symbolic link
            self._opened = os.open(self.path, flags | os.O_CREAT, _MODE)
            self._is_new = True

    def write(self, text: str) -> None:
        """Make *text* the whole content of the file.

        Raises:
            Failure: the file cannot be written; the message says where the text was saved.
            OutputLost: standard output cannot be written.
        """
        if self._standard == _STDOUT:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        try:
            self._write(text.encode("utf-8", "backslashreplace"))
            self._is_new = False
        except OSError as error:
            why = f"{self._option}: cannot write {self.path!r}: {error.strerror}"
            raise Failure(f"{why}; {self._save_copy(text)}") from None

    def _write(self, data: bytes) -> None:
        if self._standard is not None:
            stdio.write_all(self._standard, data)
            return
        is_file = stat.S_ISREG(self._status.st_mode)
        if is_file:
            if not self._is_in_place():  # removed or replaced after it was opened
                os.close(self._descriptor)
                self._opened = None
                self._open()
            os.ftruncate(self._descriptor, 0)
        stdio.write_all(self._descriptor, data)
        if is_file:
            os.fsync(self._descriptor)  # some file systems report a full disk only here

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), Path(self.path).stat())
        except OSError:
            return False

    def _save_copy(self, text: str) -> str:
        """Save *text* in a temporary file; return a message that says where."""
        name = Path(self.path).name
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", prefix="silly-", suffix=f"-{name}"[-80:], delete=False
            ) as file:
                file.write(text)
        except OSError as error:
            return f"the result is lost: {error.strerror}"
        return f"the result is in {file.name!r}"

    def discard(self) -> None:
        """Close the file; remove it if it is new and was never written."""
        if self._opened is None:
            return
        with contextlib.suppress(OSError):
            if self._is_new and self._is_in_place():
                Path(self.path).resolve().unlink()
        os.close(self._descriptor)
        self._opened = None


_NAMES: Final = {"-": _STDOUT, "/dev/stdout": _STDOUT, "/dev/stderr": _STDERR}


def _standard(path: str) -> int | None:
    """Return the standard descriptor that *path* names or that has the same file open, if any."""
    if path in _NAMES:
        return _NAMES[path]
    try:
        status = Path(path).stat()
    except OSError:
        return None
    for number in (_STDOUT, _STDERR):
        if os.path.samestat(status, os.fstat(number)) and not _is_device(status):
            return number
    return None


def _is_device(status: os.stat_result) -> bool:
    """True for a character device, such as /dev/null."""
    return stat.S_ISCHR(status.st_mode)
