"""How tests run: coroutine tests run on each kind of loop and must clean up.

A test that is a coroutine function runs on the stock loop, on the loop that `silly.run`
uses if that is another, on that in debug mode, and on uvloop. A test of what lies above
engines, connections and streams runs on the loop of `silly.run`, and on one of the others,
which its name selects. Afterwards, no task may be running, no descriptor may be leaked, and
the loop's exception handler must not have been called.

Each test has a deadline: SIGALRM interrupts whatever the main thread waits for.

`pytest --engine-only` skips the tests marked `no_engine`, which give the same result
on every engine, and the loop in debug mode, which the first engine's run covers.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import resource
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import hypothesis
import pytest
import uvloop

import silly
from tests import fork_server
from tests.ports import held_port

gc.disable()  # until all tests are collected, which takes a third less time

FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "inside": silly.loop_factory,
    "debug": silly.loop_factory,
    "uvloop": uvloop.new_event_loop,
}
TESTS = Path(__file__).parent
ON_EACH_LOOP = {TESTS / "engine", TESTS / "net", TESTS / "streams"}
DEADLINE = 120.0  # seconds for one coroutine test
TEST_DEADLINE = 300  # seconds for any test

_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))

hypothesis.settings.register_profile("silly", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("silly")

# Output of programs that tests start is buffered, on every machine; otherwise the lines of
# programs that share an output could be mixed.
os.environ.pop("PYTHONUNBUFFERED", None)

# `make test &` runs with SIGINT and SIGQUIT ignored, nohup with SIGHUP ignored, and programs
# inherit that. With a handler, a signal has its default action in a started program, and a
# closed terminal still does not end the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

fork_server.install()

_first = uvloop.new_event_loop()  # the first loop opens a pipe that stays open
_first.run_until_complete(asyncio.sleep(0))
_first.close()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heavy: not repeated in debug mode")
    config.addinivalue_line("markers", "no_engine: not repeated on the other engine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine-only", action="store_true", help="skip tests marked no_engine")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, obj: object
) -> list[pytest.Item] | None:
    if not collector.config.getoption("--engine-only"):
        return None
    marks = obj.__dict__.get("pytestmark", ()) if isinstance(obj, FunctionType | type) else ()
    is_skipped = collector.get_closest_marker("no_engine") or pytest.mark.no_engine.mark in marks
    return [] if is_skipped else None  # as early as here, since it saves time


def pytest_collection_finish() -> None:
    gc.freeze()  # skip the modules in the collection after each test, to save time
    gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        heavy = metafunc.definition.get_closest_marker("heavy") is not None
        # Debug mode checks the program's use of the loop: the same on the other engine.
        without_debug = heavy or metafunc.config.getoption("--engine-only")
        kinds = [kind for kind in FACTORIES if not (without_debug and kind == "debug")]
        if metafunc.definition.path.parent not in ON_EACH_LOOP:
            others = [kind for kind in kinds if kind != "inside"]
            selected = others[zlib.crc32(metafunc.definition.nodeid.encode()) % len(others)]
            kinds = [kind for kind in kinds if kind in {"inside", selected}]
        metafunc.fixturenames.append("loop_kind")
        metafunc.parametrize("loop_kind", kinds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    def time_out(*_: object) -> None:
        raise TimeoutError(f"{item.nodeid} was not done within {TEST_DEADLINE} s")

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(TEST_DEADLINE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}
    kind = str(pyfuncitem.callspec.params["loop_kind"])
    before = open_descriptors()
    with asyncio.Runner(debug=kind == "debug", loop_factory=FACTORIES[kind]) as runner:
        runner.run(_run(test, arguments))
    gc.collect()
    gc.freeze()  # the next collection need not look at what is left
    leaked = open_descriptors() - before
    assert not leaked, f"descriptors leaked: {leaked}"
    return True


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 that no other program gets (tests/ports.py)."""
    with held_port() as port:
        yield port


def open_descriptors() -> set[str]:
    """Return the open descriptors, as "number -> target"; skip any closed meanwhile."""
    descriptors = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib takes far longer
        try:
            descriptors.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return descriptors


async def _run(test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    errors: list[str] = []
    loop.slow_callback_duration = TEST_DEADLINE  # debug mode logs callbacks that take longer
    loop.set_exception_handler(lambda _loop, context: errors.append(repr(context)))
    async with asyncio.timeout(DEADLINE):
        await test(**arguments)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=20)
    assert not left, f"tasks left behind: {left}"
    assert not errors, errors
