"""What the engines assume of Python: where it does not hold, they go on without it and say so."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.no_engine

VERSION = "\nimport sys\nfrom silly.cli import main\nmain(['--version'])"
ECHO = """
import silly
from silly.net import tcp

async def echo(conn):
    async for line in conn:
        await conn.write(line)

async def main():
    listener = tcp.listen("127.0.0.1:0", echo)
    conn = await tcp.connect(listener.local_addr)
    for _ in range(3):
        await conn.write(b"hello\\n")
        print(await conn.read(b"\\n"), silly.engine())
    conn.close()
    listener.close()

silly.run(main())
"""

WRAPPED = """
import asyncio
class Task({base}):
    {body}
asyncio.Task = asyncio.tasks.Task = Task
"""
YIELDS_NONE = """def __init__(self, coroutine, **options):
        async def bare():
            for _ in coroutine.__await__():
                await asyncio.sleep(0)
        super().__init__(bare(), **options)
"""

BROKEN = {
    "import asyncio.tasks; del asyncio.tasks._enter_task": "asyncio.tasks has no _enter_task",
    "import asyncio.tasks; del asyncio.tasks._leave_task": "asyncio.tasks has no _leave_task",
    "import asyncio.tasks as t; t._enter_task = t._leave_task = lambda loop, task: None": (
        "asyncio.tasks._enter_task and _leave_task do not set the current task"
    ),
    WRAPPED.format(base="asyncio.Task", body=YIELDS_NONE): (
        "asyncio.Task does not wait on a future of another kind"
    ),
    WRAPPED.format(base="asyncio.Task", body="def cancel(self, msg=None): pass"): (
        "asyncio.Task.cancel does not cancel a future of another kind"
    ),
    WRAPPED.format(
        base="asyncio.Task",
        body="def __init__(self, coroutine, *, loop, context, **_):\n"
        "        super().__init__(coroutine, loop=loop)",
    ): "the coroutine of an asyncio.Task cannot be stepped without the task",
    WRAPPED.format(base="", body="pass"): "asyncio.Task cannot be stepped: TypeError",
    "from asyncio import Handle\nHandle._run = lambda self: self._callback(*self._args)": (
        "asyncio.Handle does not run its callback inside its _context"
    ),
    "import sys; sys._is_gil_enabled = lambda: False": "the GIL is off",
    "import sys; sys.implementation.name = 'pypy'": "this is not CPython but pypy",
}


def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "SILLY_ENGINE"}
    return subprocess.run(
        # With -B, since a program from the fork server has imported silly already.
        [sys.executable, "-B", "-c", script], env={**env, **variables}, capture_output=True,
        text=True, timeout=50, check=False,
    )  # fmt: skip


@functools.cache
def has_native() -> bool:
    return run("import silly; print(silly.engine())").stdout == "native\n"


def test_silly_is_imported_by_a_task() -> None:
    program = """
import asyncio
async def main():
    task = asyncio.current_task()
    import silly
    await asyncio.sleep(0)
    assert asyncio.current_task() is task
    return silly.engine()
print(asyncio.run(main()))
"""
    done = run(program)
    assert (done.stdout, done.stderr) == ("native\n" if has_native() else "portable\n", "")


@pytest.mark.parametrize(("change", "reason"), BROKEN.items(), ids=BROKEN.values())
def test_a_python_that_differs(change: str, reason: str) -> None:
    if not has_native():
        pytest.skip("the native engine is not built")
    shown = run(change + VERSION).stdout
    assert "portable engine" in shown
    assert f"\nno native engine: it cannot be loaded: {reason}" in shown
    done = run(change + "\nimport silly", SILLY_ENGINE="native")
    last = done.stderr.splitlines()[-1]
    expected = f"ImportError: SILLY_ENGINE=native: the native engine cannot be loaded: {reason}"
    assert last.startswith(expected)
    assert done.stderr.count("Traceback") == 1


@pytest.mark.parametrize("reason", ["_enter_task", "_leave_task", "current task", "_context"])
def test_the_portable_engine_serves_where_tasks_cannot_be_stepped(reason: str) -> None:
    change = next(change for change, why in BROKEN.items() if reason in why)
    done = run(change + ECHO)
    assert done.stdout == "b'hello\\n' portable\n" * 3, done.stderr


def test_this_python_is_as_assumed() -> None:
    from silly._engine.assumptions import why_not_stepped
    from silly._engine.portable import trampoline

    assert why_not_stepped(trampoline._start_stepped_task, trampoline._rehearse) is None
    assert trampoline.start_task is trampoline._start_stepped_task
