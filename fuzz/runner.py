"""Runs random programs, which random_programs.py and random_datagrams.py make of seeds.

Each program runs on a loop of its own, to its end; what it leaves behind is a problem. Programs
run in child processes, several in each, so that crashes and hangs are detected. For a failure, its
seed, the program and the child's output are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import heapq
import logging
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import silly
from silly.errors import SillyError

NATIVE: Final = silly.engine() == "native"
ANY: Final = "127.0.0.1:0"
PER_CHILD: Final = 25  # programs that one process runs
DEADLINE: Final = 40.0  # seconds for one program, on a busy machine
PATIENCE: Final = 10.0  # seconds for anything that should happen at once
MAX_FAILURES: Final = 10
SHORT: Final = (0, 0.0005, 0.002, 0.01)
Op = tuple[str, int, Any]  # name, connection (0: the script's own), value


class Boom(Exception):  # noqa: N818
    """An error that a program raises on purpose."""


class BaseBoom(BaseException):
    """The same, but not an `Exception`."""


RAISED: Final[dict[str, Callable[[], BaseException]]] = {
    "Boom": Boom,
    "BaseBoom": BaseBoom,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopAsyncIteration": StopAsyncIteration,
    "TimeoutError": TimeoutError,
    "MemoryError": MemoryError,
}
ON_PURPOSE: Final = (Boom, BaseBoom, GeneratorExit, StopAsyncIteration, MemoryError)
STOPS: Final = (SystemExit, KeyboardInterrupt)  # errors that stop the loop
EXPECTED: Final = (SillyError, OSError, TimeoutError, Boom, ExceptionGroup)


class Failure(AssertionError):  # noqa: N818
    """The invariant does not hold."""


def pick(rng: random.Random, table: dict[str, tuple[float, tuple[Any, ...]]]) -> Op:
    name = rng.choices(list(table), [weight for weight, _ in table.values()])[0]
    return name, rng.choice((0, 0, rng.randrange(100))), rng.choice(table[name][1])


# --------------------------------------------------------------------- the loop


class NestableLoop(asyncio.SelectorEventLoop):
    """A loop that can run inside its own callbacks, as with nest_asyncio."""

    _ready: Any
    _scheduled: Any

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        timeout = None
        if ready or self._stopping:  # type: ignore[attr-defined]
            timeout = 0.0
        elif scheduled:
            timeout = max(0.0, scheduled[0]._when - self.time())
        self._process_events(self._selector.select(timeout))  # type: ignore[attr-defined]
        end = self.time() + self._clock_resolution  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when < end:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            if not ready:  # a nested run took them
                break
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def run_inside(self, turns: int) -> None:
        task = asyncio.current_task(self)
        if task is not None:
            asyncio.tasks._leave_task(self, task)
        try:
            for _ in range(turns):
                self.call_soon(int)
                self._run_once()
        finally:
            if task is not None:
                asyncio.tasks._enter_task(self, task)


# ----------------------------------------------------------------------- faults

_faults: Any = None


def set_faults(seed: int, per_mille: int) -> None:
    """Make system calls fail from now on, if faults.c is preloaded."""
    global _faults  # noqa: PLW0603
    if _faults is None:
        try:
            _faults = ctypes.CDLL(None).silly_faults
        except AttributeError:
            _faults = print_nothing
    _faults(seed, per_mille)


def print_nothing(*_: object) -> None:
    """A callback."""


# --------------------------------------------------------------------- a program


class World:
    """A running program, and the objects that it created."""

    def __init__(self, program: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.program, self.loop = program, loop
        self.tasks: list[asyncio.Future[Any]] = []
        self.counter = self.depth = 0
        self.over = False
        self.problems: list[str] = []
        self.pids: list[int] = []

    async def run(self) -> None:
        """Run the program."""
        raise NotImplementedError

    async def end_all(self) -> None:
        """End what the program left, and check that it ends."""
        raise NotImplementedError

    async def check_new(self) -> None:
        """Check that what is new works."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what is not the loop's."""

    def check(self) -> None:
        """Check what was received, after the end."""

    def on_loop_error(self, _loop: object, context: dict[str, Any]) -> None:
        """Check what is reported to the loop's exception handler."""
        raise NotImplementedError

    def next(self, of: list[Any]) -> Any:
        self.counter += 1
        return of[self.counter * 7 % len(of)] if of else None

    def keep(self, task: asyncio.Future[Any]) -> None:
        task.add_done_callback(_retrieve_exception)
        self.tasks.append(task)

    def spawn(self, coroutine: Coroutine[Any, Any, object]) -> None:
        try:
            task = self.loop.create_task(coroutine)
        except BaseException:
            coroutine.close()
            raise
        self.keep(task)

    def do_cancel(self, _thing: Any, _: int) -> None:
        task = self.next(self.tasks)
        if task is not None:
            task.cancel()

    def do_collect(self, _thing: Any, generation: int) -> None:
        gc.collect(generation)

    def do_raise(self, _thing: Any, name: str) -> None:
        if not self.over:
            raise RAISED[name]()

    def do_nest(self, _thing: Any, turns: int) -> None:
        if self.depth < 3 and not self.over and isinstance(self.loop, NestableLoop):
            self.depth += 1
            try:
                self.loop.run_inside(turns)
            finally:
                self.depth -= 1

    def fork(self, touch: Callable[[], None]) -> None:
        """Run *touch* in a forked child."""
        if len(self.pids) > 3:  # enough children
            return
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(int(PATIENCE))
                touch()
                gc.collect()
                status = 0
            finally:
                os._exit(status)
        self.pids.append(pid)


def _retrieve_exception(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def descriptors() -> set[str]:
    found = set()
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{number.name} -> {number.readlink()}")
    return found


def drive(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None], what: str) -> None:
    """Run *main* to its end, and restart the loop whenever it is stopped."""
    task = loop.create_task(main)
    stops = 0
    while not task.done():
        try:
            loop.run_until_complete(asyncio.wait([task], timeout=PATIENCE * 2))
        except (*ON_PURPOSE, *STOPS, asyncio.CancelledError):
            stops += 1
            if stops < 1000:
                continue
        except RuntimeError as error:
            if "Event loop stopped before" in str(error):
                continue
            raise
        if not task.done():
            raise Failure(f"{what} does not end: {task!r}, stopped {stops} times")
    if not task.cancelled():
        task.result()


def selector(program: Any) -> selectors.BaseSelector:
    if not program.inside:
        return selectors.DefaultSelector()
    from silly._engine.selector import Selector  # noqa: PLC0415 - not everywhere

    return Selector()


def new_loop(program: Any) -> asyncio.AbstractEventLoop:
    loop = (NestableLoop if program.loop == "nested" else asyncio.SelectorEventLoop)(
        selector(program)
    )
    loop.set_debug(program.loop == "debug")
    return loop


def run_world(world: World) -> list[str]:
    """Run the program of *world* to its end, and close its loop; return the problems found."""
    loop, problems = world.loop, world.problems
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(world.on_loop_error)
    try:
        drive(loop, guarded(world.run()), "the program")
        loop.set_task_factory(None)
        drive(loop, guarded(world.end_all()), "its end")
        drive(loop, world.check_new(), "what is new")
    except (Exception, asyncio.CancelledError) as error:
        problems.append(f"on its loop: {error!r}")
    finally:
        set_faults(0, 0)
        loop.set_task_factory(None)
    world.close()
    with contextlib.suppress(Exception, SystemExit, KeyboardInterrupt):
        loop.run_until_complete(loop.shutdown_default_executor())
    with contextlib.suppress(*STOPS):  # raised by tasks that end here
        loop.close()
    asyncio.set_event_loop(None)
    world.check()
    for pid in world.pids:
        _, status = os.waitpid(pid, 0)
        if status:
            problems.append(f"a forked child ended with {status:#x}")
    loop.set_exception_handler(None)
    return problems


async def guarded(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run *coroutine*; ignore cancellations and errors that the program causes."""
    try:
        await coroutine
    except (*ON_PURPOSE, *STOPS, OSError, SillyError, asyncio.CancelledError):
        pass


def with_leaks(run: Callable[[], list[str]], *, counts: bool = True) -> list[str]:
    """Return the problems that *run* finds; also left descriptors, if that *counts*."""
    before = descriptors()
    problems = run()
    for _ in range(3):
        gc.collect()
    if counts and (left := descriptors() - before):
        problems.append(f"descriptors left: {sorted(left)}")
    return problems


# --------------------------------------------------------------- child and parent

Make = Callable[[int, str | None], Any]  # returns the program of a seed, of a kind
Check = Callable[[Any], list[str]]  # runs it, and returns the problems found


def run_child(first: int, count: int, kind: str | None, make: Make, check: Check) -> None:
    """Run programs one after the other; report each on standard output."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    sys.unraisablehook = print_nothing
    threading.excepthook = print_nothing
    for seed in range(first, first + count):
        print("begin", seed, flush=True)
        problems = check(make(seed, kind))
        if problems:
            print(*problems, sep="\n", file=sys.stderr, flush=True)
            print("fail", seed, flush=True)
            break  # the process may be damaged
        print("end", seed, flush=True)
    sys.stdout.flush()
    os._exit(0)  # whatever the programs left behind


@dataclass
class Child:
    """A process that runs programs."""

    first: int
    count: int
    process: subprocess.Popen[bytes]
    errors: Any

    @classmethod
    def start(cls, first: int, count: int, kind: str | None) -> Child:
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [
                *(sys.executable, sys.argv[0], "--child", str(first), str(count)),
                *(() if kind is None else ("--kind", kind)),
            ],
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        return cls(first, count, process, errors)

    def messages(self, deadline: float) -> Iterator[tuple[str, int]]:
        """Yield the child's messages, and "hang" if none arrives for *deadline* seconds."""
        assert self.process.stdout is not None
        output = self.process.stdout
        held = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while True:
                if not selector.select(deadline):
                    self.process.send_signal(signal.SIGUSR1)
                    time.sleep(1)
                    yield "hang", 0
                    return
                piece = os.read(output.fileno(), 65536)
                if not piece:
                    return
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    word, _, number = line.decode().partition(" ")
                    if word in ("begin", "end", "fail"):
                        yield word, int(number)

    def output(self) -> str:
        self.errors.seek(0)
        text: str = self.errors.read().decode(errors="replace")
        lines = [line[:2000] for line in text.splitlines()]
        return "\n".join(lines[:150])

    def stop(self) -> int:
        self.process.kill()
        return self.process.wait()


def run_some(first: int, count: int, kind: str | None, make: Make) -> tuple[int, str | None]:
    """Run *count* programs in one process; return how many ran, and what failed."""
    child = Child.start(first, count, kind)
    seed, running, why = first, False, None
    try:
        for word, number in child.messages(DEADLINE):
            if word == "begin":
                seed, running = number, True
            elif word == "end":
                running = False
            elif word == "fail":
                running, why = False, "failed"
            else:
                why = f"did not end in {DEADLINE:g} seconds"
        if why is None:
            status = child.process.wait(DEADLINE)
            if running or status:
                why = f"ended its process (status {status})"
    finally:
        child.stop()
    if why is None:
        return count, None
    before = f" (after {first} to {seed - 1} in the same process)" if seed > first else ""
    return (
        seed - first + 1,
        f"seed {seed} {why}{before}\n{make(seed, kind)}\n{child.output()}",
    )


def main(make: Make, check: Check, doc: str | None, kinds: tuple[str, ...] = ()) -> int:
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long to run (default 60)")
    parser.add_argument("--seed", type=int, help="seed of the first program (default random)")
    parser.add_argument(
        "--programs", type=int, help="number of programs (default: as many as time allows)"
    )
    parser.add_argument("--kind", choices=kinds, help="of connections (default: any)")
    parser.add_argument(
        "--show", action="store_true", help="print the program instead of running it"
    )
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        first, count = options.child
        run_child(first, count, options.kind, make, check)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**9)
    if options.show:
        print(make(seed, options.kind))
        return 0
    print(
        f"stress: {silly.engine()}, Python {sys.version.split()[0]}, from seed {seed}", flush=True
    )
    end = time.monotonic() + options.seconds
    ran, failures = 0, 0
    kind = "" if options.kind is None else f" KIND={options.kind}"
    while time.monotonic() < end and (options.programs is None or ran < options.programs):
        left = PER_CHILD if options.programs is None else options.programs - ran
        count, failure = run_some(seed + ran, min(left, PER_CHILD), options.kind, make)
        ran += count
        if failure is not None:
            failures += 1
            print(f"\n{failure}\nreplay it: make stress SEED={seed + ran - 1}{kind}\n", flush=True)
            if failures == MAX_FAILURES:
                break
    print(f"stress: programs: {ran}, failures: {failures}", flush=True)
    return 1 if failures else 0
