"""Line mode for a terminal: a prompt with editing and history. Needs prompt_toolkit.

Received lines are printed above the line that is being typed. The peer's unfinished
line becomes the prompt, such as the ``> `` of many servers.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History

__all__ = ["Prompt", "Recent"]

_SHOWN = 200  # characters of an unfinished line to show as the prompt
_HELD = 4096  # characters of an unfinished line; a longer one is printed in parts
_REMEMBERED = 1000  # typed lines


class Recent(History):
    """The last lines that were typed, in memory only: one may be a password."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)

    async def load(self) -> AsyncGenerator[str, None]:
        """Yield the lines, newest first."""
        for line in self.load_history_strings():
            yield line

    def get_strings(self) -> list[str]:
        """Return the lines, oldest first."""
        return list(self._lines)

    def append_string(self, string: str) -> None:
        """Add a line; drop the oldest if there are too many."""
        self._lines.append(string)

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines, newest first."""
        return reversed(self._lines)

    def store_string(self, string: str) -> None:
        """Do nothing: `append_string` has stored it."""


class Prompt:
    """Asks for lines, and prints above them."""

    def __init__(self) -> None:
        # Without this, prompt_toolkit asks the terminal for the cursor position, and waits.
        os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
        self._unfinished = ""
        self._asking = False
        self._session: PromptSession[str] = PromptSession(
            message=lambda: FormattedText([("", self._unfinished[-_SHOWN:])]),
            history=Recent(),
        )

    async def ask(self) -> str:
        """Return the next line that the user enters.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C.
        """
        self._asking = True
        try:
            line: str = await self._session.prompt_async(handle_sigint=False)
        finally:
            self._asking = False
        self._unfinished = ""
        return line

    async def show(self, text: str) -> None:
        """Print *text*, which must be safe for a terminal, above what is being typed."""
        whole, newline, self._unfinished = (self._unfinished + text).rpartition("\n")
        if len(self._unfinished) > _HELD:
            whole, newline, self._unfinished = whole + newline + self._unfinished, "\n", ""
        if newline or not self._asking:
            await self.above(lambda: _print(whole + newline))
        else:
            self._session.app.invalidate()

    async def above(self, write: Callable[[], None]) -> None:
        """Call *write*, which writes whole lines to the terminal, above what is being typed."""
        if self._asking:
            await run_in_terminal(write)
        else:
            write()

    def finish(self) -> None:
        """Print the unfinished line."""
        if self._unfinished:
            _print(self._unfinished + "\n")
            self._unfinished = ""


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
