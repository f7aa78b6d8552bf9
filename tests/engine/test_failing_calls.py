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

own_malloc = "asan" in os.environ.get("LD_PRELOAD", "")  # where none can be made to fail

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

WRITING = """\
batch: refused, 0 left
32002
queue: refused, 0 left
10000002
the rest of a batch: Cannot allocate memory, 0 left
"""

FILTERING = """\
b'x\\n' 0 left
unsent: Cannot allocate memory, 0 left
unsealed: SSLError, 0 left
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    path = tmp_path_factory.mktemp("failing") / "failing.so"
    source = HERE / "failing.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source, "-ldl"], check=True)
    return path


def printed(library: Path, *part: str) -> str:
    """What a part of failing_calls.py prints."""
    preloaded = os.environ.get("LD_PRELOAD", "")  # of `make asan`
    done = subprocess.run(
        [sys.executable, HERE / "failing_calls.py", *part],
        env={
            **os.environ,
            "LD_PRELOAD": f"{preloaded} {library}".strip(),
            "PYTHONPATH": f"{HERE.parents[1]}:{os.environ.get('PYTHONPATH', '')}",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_accepting_fails(library: Path) -> None:
    assert printed(library, "accepting") == ACCEPTING


# What the native engine alone asks for; the other one does without it.
NO_MEMORY = "is made" if own_malloc else "MemoryError"
REFUSED = "epoll_create1 EMFILE\nwatch set ENOSPC\n"
MADE = "epoll_create1 is made\nwatch set is made\n"
BEGINNING = {
    ("native", "nested"): f"malloc {NO_MEMORY}\nwatch listener ENOSPC\n{REFUSED}{REFUSED}",
    ("native", "inside"): f"malloc {NO_MEMORY}\nwatch listener ENOSPC\n{REFUSED}{REFUSED}",
    ("portable", "nested"): f"watch listener ENOSPC\n{REFUSED}{MADE}",
    ("portable", "inside"): f"watch listener ENOSPC\n{REFUSED}{MADE}",
}
DATAGRAMS = {
    "native": f"malloc {NO_MEMORY}\nwatch connection ENOSPC\nb'x' 0 left\nNone\n",
    "portable": "watch connection ENOSPC\nb'x' 2 left\nNone\n",
}


@pytest.mark.parametrize("loop", ["nested", "inside"])
def test_a_listener_cannot_be_made(library: Path, loop: str) -> None:
    assert printed(library, "beginning", loop) == BEGINNING[silly.engine(), loop] + "served\n"


def test_a_datagram_socket_cannot_be_made_or_used(library: Path) -> None:
    assert printed(library, "datagrams") == DATAGRAMS[silly.engine()]


@native_only
def test_a_listener_cannot_be_watched_again(library: Path) -> None:
    assert printed(library, "many") == "1 stalls\n"


def test_connections_cannot_be_watched(library: Path) -> None:
    """No watches are left (ENOSPC, epoll_ctl(2)): connections are refused, and later are not."""
    assert printed(library, "watching") == "refused 0 0\nserved b'z\\n'\n"


@pytest.mark.skipif(own_malloc, reason="malloc is its own")
@pytest.mark.skipif(
    silly.engine() == "portable" and sys.version_info >= (3, 12),
    reason="which allocation of Python's fails is another one there",
)
def test_there_is_no_memory_for_what_one_connection_holds(library: Path) -> None:
    assert printed(library, "memory") == MEMORY[silly.engine()]


@native_only
def test_a_peer_is_gone_when_something_is_written(library: Path) -> None:
    assert printed(library, "losing") == "BrokenPipeError, 0 left\n"


@native_only
@pytest.mark.skipif(own_malloc, reason="malloc is its own")
@pytest.mark.parametrize(("part", "expected"), [("writing", WRITING), ("filtering", FILTERING)])
def test_there_is_no_memory_for_what_is_written(library: Path, part: str, expected: str) -> None:
    assert printed(library, part) == expected


def test_the_system_takes_nothing_although_it_said_so(library: Path) -> None:
    assert printed(library, "blocking") == "10000000\n"


def test_a_connection_does_not_know_its_own_address(library: Path) -> None:
    assert printed(library, "names") == "served\n['unknown', 'unknown']\n"


@native_only
def test_the_reactor_cannot_have_a_timer(library: Path) -> None:
    assert printed(library, "timers", "inside") == "0 left\n"
