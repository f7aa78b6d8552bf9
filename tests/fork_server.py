"""Python programs that tests start, forked from a process that has imported silly already.

Tests start a thousand programs, and most of each start is importing what `import silly` imports.
`install` makes `subprocess`, and asyncio's subprocesses with it, leave a start that is plain
enough to a server. The server forks twice, and the process in the middle ends, so that the
program becomes a child of the process that asked, as if that had started it. With other options
of the interpreter than -u and -P, a `preexec_fn` other than `take_terminal` or another PYTHONPATH,
for example, a program starts as ever; with FORK_SERVER=0 all do.

What such a program could notice: modules are in `sys.modules` before it imports them, and what
these hold is not released at its end; `sys.flags` are those of the server, and so is
/proc/PID/cmdline.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import importlib
import io
import marshal
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

MODULES = (
    "silly",
    "click",
    "silly.cli.bench",
    "silly.cli.connect",
    "silly.cli.echo",
    "silly.cli.run",
    "silly.metrics",
    "silly.runtime.program",
    "silly.workers",
    "encodings.idna",
)
MAX_REQUEST = 100_000  # bytes
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

# Variables that are read when a process starts, or when silly is imported.
READ_AT_START = (b"PYTHON", b"LC_", b"LANG", b"LD_", b"MALLOC_", b"OPENSSL_", b"SILLY_ENGINE")


class Program(NamedTuple):
    """A program to start, with what `subprocess` can give it."""

    argv: list[str]  # without the interpreter and its options
    is_unbuffered: bool  # -u
    has_safe_path: bool  # -P
    cwd: str
    environ: dict[bytes, bytes]
    new_session: bool
    takes_terminal: bool
    process_group: int
    umask: int
    descriptors: list[int]  # their numbers in the program


def take_terminal() -> None:
    """Make standard input the terminal of this session: a `preexec_fn` that the server knows."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


# ---------------------------------------------------------------------- the process that asks


def install() -> None:
    """Have `subprocess` leave the start of Python programs to a server."""
    # The function that is replaced is private.
    is_known = sys.platform == "linux" and sys.version_info < (3, 14)
    if is_known and os.environ.get("FORK_SERVER") != "0":
        fork_exec = subprocess._fork_exec  # type: ignore[attr-defined]
        subprocess._fork_exec = Client(fork_exec).fork_exec  # type: ignore[attr-defined]


class Client:
    """Starts programs by a server of its own."""

    def __init__(self, fork_exec: Callable[..., int]) -> None:
        self.without_server = fork_exec
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._prctl = ctypes.CDLL(None).prctl
        self._inherited = _inherited()
        self._at_start = _read_at_start(os.environb)
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            null = subprocess.DEVNULL
            self._server = subprocess.Popen(
                command, stdin=null, stdout=null, pass_fds=[theirs.fileno()]
            )
        atexit.register(self._stop)

    def _stop(self) -> None:
        if os.getpid() == self._pid:
            self._sock.close()
            self._server.wait(timeout=30)

    def fork_exec(self, *args: Any) -> int:
        """Start a program as `_posixsubprocess.fork_exec` does, by the server if it can."""
        if (
            os.getpid() == self._pid
            and self._sock.fileno() != -1
            and _inherited() == self._inherited
            and (asked := _plain_program(*args)) is not None
            and _read_at_start(asked[0].environ) == self._at_start
            and len(request := marshal.dumps(tuple(asked[0]))) <= MAX_REQUEST
        ):
            return self._ask(request, asked[1])
        return self.without_server(*args)

    def _ask(self, request: bytes, descriptors: list[int]) -> int:
        with self._lock:
            if self._prctl(PR_SET_CHILD_SUBREAPER, 1):
                raise RuntimeError("a process cannot take children here: run with FORK_SERVER=0")
            try:
                socket.send_fds(self._sock, [request], descriptors)
                reply = self._sock.recv(8)
            except BaseException:
                self._sock.close()  # the reply must not be taken for that to the next request
                raise
            finally:
                self._prctl(PR_SET_CHILD_SUBREAPER, 0)
        if not reply:
            raise RuntimeError("the fork server has ended: see its standard error")
        return int.from_bytes(reply)


def _inherited() -> object:
    """Return what a program inherits that the server does not change for it."""
    ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
    limits = [resource.getrlimit(n) for n in range(resource.RLIMIT_NOFILE + 1)]
    return ignored, signal.pthread_sigmask(signal.SIG_BLOCK, ()), limits


def _read_at_start(environ: Any) -> dict[bytes, bytes]:
    return {name: value for name, value in environ.items() if name.startswith(READ_AT_START)}


def _plain_program(*args: Any) -> tuple[Program, list[int]] | None:
    """Return the program that arguments of `fork_exec` start, and its descriptors, here.

    None if the server could not start it in the same way.
    """
    if len(args) != 23:  # those of CPython 3.11 to 3.13
        return None
    command, executables, close_fds, kept, cwd, env, *pipes = args[:14]
    restore_signals, new_session, process_group, gid, gids, uid, umask, preexec_fn, _ = args[14:]
    if not close_fds or not restore_signals or (gid, gids, uid) != (None, None, None):
        return None
    if preexec_fn not in {None, take_terminal}:
        return None
    name, *argv = map(os.fsdecode, command)
    if tuple(executables) != (os.fsencode(name),):
        return None
    if _is_script(name):
        argv = [name, *argv]
    elif name != sys.executable:
        return None
    if is_unbuffered := argv[:1] == ["-u"]:
        del argv[0]
    if has_safe_path := argv[:1] == ["-P"]:
        del argv[0]
    directory = Path(os.fsdecode(cwd)) if cwd else Path.cwd()
    if not directory.is_dir() or not _can_run(argv, directory):
        return None
    stdin, _, _, stdout, _, stderr, _, errpipe = pipes
    passed = sorted({*map(int, kept)} - {errpipe})
    numbers = [0, 1, 2, *passed]
    descriptors = [
        number if given == -1 else given for number, given in enumerate((stdin, stdout, stderr))
    ]
    environ = dict(os.environb) if env is None else dict(bytes(pair).split(b"=", 1) for pair in env)
    program = Program(
        argv,
        is_unbuffered,
        has_safe_path,
        str(directory),
        environ,
        bool(new_session),
        bool(preexec_fn),
        process_group,
        umask,
        numbers,
    )
    return program, [*descriptors, *passed]


@functools.cache
def _is_script(name: str) -> bool:
    """Return whether *name* is the path of a script that pip has installed."""
    path = Path(name)
    if path.parent != Path(sys.executable).parent or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline() == f"#!{sys.executable}\n".encode()


def _can_run(argv: Sequence[str], directory: Path) -> bool:
    match argv:
        case ["-m" | "-c", _, *_]:
            return True
        case [path, *_]:
            return not path.startswith("-") and (directory / path).is_file()
    return False


# ---------------------------------------------------------------------- the server


def serve(sock: socket.socket) -> Program:
    """Fork for each request on *sock*; return in the program that was asked for."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(sock, MAX_REQUEST, 200)
        if not request:
            raise SystemExit
        has_parent, release = os.pipe()
        if (middle := os.fork()) == 0:
            if os.fork():
                os._exit(0)  # the program becomes a child of the process that asks
            os.close(release)
            os.read(has_parent, 1)
            os.close(has_parent)
            sock.send(os.getpid().to_bytes(8))
            sock.close()
            program = Program(*marshal.loads(request))
            renumber(descriptors, program.descriptors)
            return program
        os.close(has_parent)
        os.waitpid(middle, 0)
        os.close(release)
        for descriptor in descriptors:
            os.close(descriptor)


def renumber(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give *descriptors* the *numbers*, and make them inheritable."""
    first_free = max(*numbers, *descriptors) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first_free) for fd in descriptors]
    for fd in descriptors:
        os.close(fd)
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)


def become(program: Program) -> None:
    """Make this process what it would be after exec(2)."""
    if program.new_session:
        os.setsid()
    if program.takes_terminal:
        take_terminal()
    if program.process_group != -1:
        os.setpgid(0, program.process_group)
    if program.umask != -1:
        os.umask(program.umask)
    os.chdir(program.cwd)
    options = ["-u"] * program.is_unbuffered + ["-P"] * program.has_safe_path
    sys.orig_argv = [sys.executable, *options, *program.argv]
    os.environb.clear()
    os.environb.update(program.environ)
    time.tzset()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        is_raw = program.is_unbuffered and number > 0
        raw: Any = io.FileIO(number, "w" if number else "r", closefd=False)
        raw.name = f"<{name}>"
        buffered = io.BufferedWriter if number else io.BufferedReader
        text: Any = io.TextIOWrapper(
            raw if is_raw else buffered(raw),
            before.encoding,
            before.errors,
            newline="\n",
            line_buffering=not is_raw and (name == "stderr" or os.isatty(number)),
            write_through=program.is_unbuffered,
        )
        text.mode = "w" if number else "r"
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


def run(program: Program) -> None:
    """Run the program that the interpreter would run."""
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    match program.argv:
        case ["-m", _, *rest]:
            sys.argv = ["-m", *rest]
            first = str(Path.cwd())
        case ["-c", _, *rest]:
            sys.argv = ["-c", *rest]
            first = ""
        case [path, *_]:
            sys.argv = [*program.argv]
            first = str(Path(path).resolve().parent)
    sys.path[0:1] = [] if program.has_safe_path else [first]
    match program.argv:
        case ["-m", name, *_]:
            runpy._run_module_as_main(name)  # type: ignore[attr-defined]
        case ["-c", code, *_]:
            exec(compile(code, "<string>", "exec"), main.__dict__)
        case [path, *_]:
            main.__file__ = str(Path.cwd() / path)
            exec(compile(Path(path).read_bytes(), path, "exec"), main.__dict__)


def outlive(modules: set[str]) -> None:
    """Keep *modules* out of the end of the interpreter, most of whose time they would take."""
    # A signal that comes meanwhile ends the program, and leaves no traceback of this function.
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    for name in modules & {*sys.modules}:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules.pop(name)))


def main() -> None:
    of_server: set[str] = set()
    atexit.register(outlive, of_server)  # the first function that is registered is called last
    of_interpreter = {*sys.modules}
    for name in MODULES:
        importlib.import_module(name)
    of_server.update({*sys.modules} - of_interpreter)
    gc.collect()
    gc.freeze()  # a collection in a program copies no memory of the server
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        program = serve(sock)
    become(program)
    try:
        run(program)
    except Exception as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        sys.exit(1)


if __name__ == "__main__":
    main()
