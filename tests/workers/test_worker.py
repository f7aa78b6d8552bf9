"""The worker's side of the channel, without a supervisor's process at the other end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from silly._engine import engine
from silly.net.addr import parse
from silly.workers.channel import Act, Channel, Lend, Refused
from silly.workers.worker import Worker

pytestmark = pytest.mark.no_engine

ADDR = "127.0.0.1:9"


@pytest.fixture
def supervisor() -> Iterator[Channel]:
    """The supervisor's end of the channel."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel, peer = Channel(ours), Channel(theirs)
    channel.peer = peer  # type: ignore[attr-defined]
    yield channel
    for end in (channel, peer):
        end.disown()  # their loop is closed


def worker_of(supervisor: Channel, *, attached: bool = True) -> Worker:
    worker = Worker(supervisor.peer, 0.0)  # type: ignore[attr-defined]
    if attached:
        main: Any = asyncio.current_task()
        assert worker.attach(asyncio.get_running_loop(), main, Mock())
    return worker


def opened(worker: Worker) -> Any:
    return worker.open(parse(ADDR), 100, reuse_port=False, mode=None, serve=Mock())


async def test_one_program_at_a_time_is_the_workers(supervisor: Channel) -> None:
    worker = worker_of(supervisor)
    main: Any = asyncio.current_task()
    assert not worker.attach(asyncio.get_running_loop(), main, Mock())
    worker.ended()
    assert not worker.attach(asyncio.get_running_loop(), main, Mock())


async def test_other_loops_open_their_own_sockets(supervisor: Channel) -> None:
    assert opened(worker_of(supervisor, attached=False)) is None


@pytest.mark.parametrize(
    ("number", "text"), [(98, "[Errno 98] in use: '127.0.0.1:9'"), (None, "127.0.0.1:9: in use")]
)
async def test_what_the_supervisor_refuses(
    supervisor: Channel, number: int | None, text: str
) -> None:
    worker = worker_of(supervisor)
    supervisor.send(Refused(number, "in use", ADDR, unresolved=False))
    with pytest.raises(OSError, match="in use") as caught:
        opened(worker)
    assert str(caught.value) == text
    assert worker.has_reported(caught.value)  # by the supervisor
    worker.ended()


async def test_a_supervisor_that_does_not_answer(supervisor: Channel) -> None:
    worker = worker_of(supervisor)
    supervisor.close()
    with pytest.raises(ConnectionAbortedError, match="The supervisor did not answer") as caught:
        opened(worker)
    assert not worker.has_reported(caught.value)
    worker.ended()


async def test_sockets_for_a_listener_that_was_closed_meanwhile_are_closed(
    supervisor: Channel,
) -> None:
    worker = worker_of(supervisor)
    lent, peer = socket.socketpair()
    with lent, peer:
        supervisor.send(Lend(ADDR, 0, 2), [lent.fileno()])
        lent.close()
        peer.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(peer, 1) == b""
    worker.ended()


async def test_a_command_that_comes_too_late_is_not_done(supervisor: Channel) -> None:
    worker = worker_of(supervisor)
    supervisor.send(Act(1, "drain"))
    supervisor.send(Refused(98, "in use", ADDR, unresolved=False))
    with pytest.raises(OSError, match="in use"):
        opened(worker)  # puts the command off
    worker.ended()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not worker._answering


async def test_a_forked_child_keeps_no_lent_sockets(
    supervisor: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(supervisor)
    disowned = Mock()
    monkeypatch.setattr(engine, "disown", disowned)
    server = Mock()
    worker._open[ADDR, 0] = Mock(return_value=server)
    with socket.socket() as sock:
        worker._borrow((ADDR, 0), 2, [sock])
    asyncio.get_running_loop().remove_reader(worker._channel._sock)  # the parent's
    worker.disown()
    disowned.assert_called_once_with(server)
    server.close.assert_not_called()


def test_relative_paths_are_those_of_the_directory_that_the_program_has_changed_to(
    supervisor: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(supervisor, attached=False)
    relative = parse("unix:name")
    assert worker._with_absolute_path(relative) == relative
    monkeypatch.chdir(tmp_path)
    assert str(worker._with_absolute_path(relative)) == f"unix:{tmp_path}/name"
