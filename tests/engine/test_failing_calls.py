"""System calls that fail as those of a machine short of something do: no listener ends of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import silly

HERE = Path(__file__).parent

native_only = pytest.mark.skipif(
    silly.engine() != "native", reason="in the other it is the loop's epoll set"
)

ACCEPTING = """\
a connection is gone: served, 0 stalls, {}
many are gone: served, 1 stalls, {}
no memory: served, 1 stalls, {}
no descriptor: reset, 0 stalls, {'descriptors': 1}
no descriptor, and nobody there: served, 0 stalls, {}
no descriptor, and a connection is gone: served, 0 stalls, {}
no descriptor, and no memory: served, 1 stalls, {}
no descriptor for the reserve: reset, 1 stalls, {'descriptors': 1}
no watch afterwards: served, 2 stalls, {}
"""

MEMORY = {
    "native": """\
unread: OSError(Cannot allocate memory)
more unread: OSError(Cannot allocate memory)
long read: OSError(Cannot allocate memory)
unsent: OSError(Cannot allocate memory)
b'x\\n'
""",
    "portable": """\
unread: OSError(Cannot allocate memory)
more unread: OSError(Cannot allocate memory)
long read: OSError(Cannot allocate memory)
unsent: MemoryError()
b'x\\n'
""",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("failing") / "failing.so"
    source = HERE / "failing.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return path


def printed(library: Path, part: str) -> str:
    """What a part of failing_calls.py prints."""
    preloaded = os.environ.get("LD_PRELOAD", "")  # of `make asan`
    done = subprocess.run(
        [sys.executable, HERE / "failing_calls.py", part],
        env={**os.environ, "LD_PRELOAD": f"{preloaded} {library}".strip()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_accepting_fails(library: Path) -> None:
    assert printed(library, "accepting") == ACCEPTING


def test_a_listener_cannot_be_made(library: Path) -> None:
    own = "EMFILE" if silly.engine() == "native" else "listens"
    expected = f"watch listener ENOSPC\nepoll_create1 {own}\nserved\n"
    assert printed(library, "beginning") == expected


@native_only
def test_a_listener_cannot_be_watched_again(library: Path) -> None:
    assert printed(library, "many") == "1 stalls\n"


@native_only
def test_connections_cannot_be_watched(library: Path) -> None:
    """No watches are left (ENOSPC, epoll_ctl(2)): connections are refused, and later are not."""
    assert printed(library, "watching") == "refused 0 0\nserved b'z\\n'\n"


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="malloc is its own")
@pytest.mark.skipif(
    silly.engine() == "portable" and sys.version_info >= (3, 12),
    reason="which allocation of Python's fails is another one there",
)
def test_there_is_no_memory_for_what_one_connection_holds(library: Path) -> None:
    assert printed(library, "memory") == MEMORY[silly.engine()]


@native_only
def test_the_reactor_cannot_have_a_timer(library: Path) -> None:
    assert printed(library, "timers") == "0 left\n"
