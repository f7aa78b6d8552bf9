"""The line mode of a terminal: a prompt with editing and history. Needs prompt_toolkit.

What comes in is printed above the line that is being typed. The peer's
unfinished line stands before it, as the prompt: ``> `` of a server that asks so.
"""

from __future__ import annotations

import os
import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import InMemoryHistory

__all__ = ["Prompt"]

_LONGEST = 200  # characters of an unfinished line before the one that is typed


class Prompt:
    """Asks for lines, and prints above them."""

    def __init__(self) -> None:
        # Where the cursor is need not be known; asking the terminal would wait for its answer.
        os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
        self._unfinished = ""
        self._asking = False
        self._session: PromptSession[str] = PromptSession(
            message=lambda: FormattedText([("", self._unfinished[-_LONGEST:])]),
            history=InMemoryHistory(),  # nothing of it is kept: it may hold passwords
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
        if not self._asking:
            _print(whole + newline)
        elif newline:
            await run_in_terminal(lambda: _print(whole + newline))
        else:
            self._session.app.invalidate()

    def finish(self) -> None:
        """Print what is unfinished."""
        if self._unfinished:
            _print(self._unfinished + "\n")
            self._unfinished = ""


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
