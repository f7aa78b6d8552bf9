"""The prompt of ``silly repl`` on a terminal. Needs prompt_toolkit (extra: ``silly-net[cli]``).

What is printed meanwhile, by handlers or in the log, appears above the prompt.
"""

from __future__ import annotations

import contextlib
import os
import re
import rlcompleter
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from silly.cli.prompting.session import Session, show

__all__ = ["Prompt"]

_FIRST: Final = ">>> "
_MORE: Final = "... "
_NAME: Final = re.compile(r"[\w.]+$")
_COMPLETIONS: Final = 100  # shown at most


class Prompt:
    """Asks for code."""

    def __init__(self, session: Session) -> None:
        # Without this, prompt_toolkit asks the terminal for the cursor position, and waits.
        os.environ["PROMPT_TOOLKIT_NO_CPR"] = "1"
        self._session = session
        self._prompts: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Names(session.namespace),
            complete_while_typing=False,
            enable_suspend=True,
        )

    async def ask(self) -> types.CodeType | None:
        """Return the code of what the user enters; None if it was nothing that can be run.

        Raises:
            EOFError: Ctrl-D on an empty line.
            KeyboardInterrupt: Ctrl-C.
        """
        text = ""
        with patch_stdout(raw=True):
            while True:
                message = _MORE if text else _FIRST
                line = await self._prompts.prompt_async(message, handle_sigint=False)
                text = f"{text}\n{line}" if text else line
                if not text.strip():
                    return None
                try:
                    code = self._session.compile(text)
                except (SyntaxError, ValueError, OverflowError) as error:
                    show(error.with_traceback(None))
                    return None
                if code is not None:
                    return code


def _history() -> History:
    """Return what was entered before, which only this user can read."""
    state = os.environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(OSError, RuntimeError):
        directory = Path(state) if state else Path.home() / ".local" / "state"
        path = directory / "silly" / "repl_history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return FileHistory(path)
    return InMemoryHistory()


class _Names(Completer):
    """Completes names, and attributes of them."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._names = rlcompleter.Completer(namespace)

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002
    ) -> Iterator[Completion]:
        """Yield what may stand where the cursor is."""
        found = _NAME.search(document.text_before_cursor)
        if found is None:
            return
        for number in range(_COMPLETIONS):
            try:
                text = self._names.complete(found[0], number)
            except Exception:  # noqa: BLE001 - a property of the user's object
                return
            if text is None:
                return
            yield Completion(text.rstrip("()"), start_position=-len(found[0]))
