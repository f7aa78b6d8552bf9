"""Metrics, the admin socket, the access log and SIGUSR1 of several workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest

from tests.workers.harness import Load, ask, dial, running, script, who

LISTENING = r"listening \S+ \d+ (\S+)"


def stats(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(f"unix:{path}", b"stats\n"))
    return found


def scraped(url: str) -> dict[str, float]:
    """Return the samples by name and labels."""
    with urllib.request.urlopen(url, timeout=20) as response:
        lines = response.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


class Scraping:
    """A thread that repeatedly scrapes and records each counter that decreased."""

    def __init__(self, url: str) -> None:
        self.backwards: list[str] = []
        self.count = 0
        self._url = url
        self._last: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def _scrape(self) -> None:
        while not self._stop.wait(0.01):
            try:
                found = scraped(self._url)
            except OSError as error:
                self.backwards.append(repr(error))
                return
            for name, value in self._last.items():
                if "_total" in name and found.get(name, 0) < value:
                    self.backwards.append(f"{name}: {value} to {found.get(name)}")
            self._last = found
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.heavy
@pytest.mark.no_engine
def test_workers_are_watched_as_one(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    options = ["--access-log", "--metrics", "127.0.0.1:0", "--admin", f"unix:{path}"]
    with running("-m", "silly", script(tmp_path), "--workers", "2", *options) as silly:
        url = silly.until(r"metrics at (\S+)")[0]
        addr = silly.until(LISTENING)[0]
        silly.until("is ready", times=2 - silly.output.count("is ready"))

        count = 0
        answering: set[int] = set()
        while len(answering) < 2:
            answering.add(who(addr)[0])
            count += 1
        silly.until(rf"\d to {addr}: peer_finished, ", times=count)
        found = stats(path)
        echo = found["listeners"][addr]
        assert found["process"]["processes"] == 2
        assert list(found["listeners"]) == [addr]  # not the listeners of metrics and admin socket
        assert (echo["accepted"], echo["endings"]) == (count, {"peer_finished": count})
        assert (echo["connections"], echo["bytes_in"]) == (0, 4 * count)
        assert sum(echo["handler_seconds"]["buckets"]) == count
        numbers = scraped(url)
        assert numbers[f'silly_connections_accepted_total{{listener="{addr}"}}'] == count
        assert numbers["silly_processes"] == 2

        with dial(addr) as sock:  # it is listed by the worker that serves it
            sock.sendall(b"x\n")
            assert sock.recv(10) == b"x\n"
            workers = json.loads(ask(f"unix:{path}", b"connections\n"))
            assert sorted(each["listeners"][0]["total"] for each in workers) == [0, 1]
        count += 1
        silly.until(rf"\d to {addr}: peer_finished, ")

        with Load(addr) as load, Scraping(url) as scraping:
            for _ in range(2):
                load.more(10)
                silly.send(signal.SIGHUP)
                silly.until(": restarted$")
            load.more(10)
        assert load.failures == []
        assert scraping.backwards == []
        assert scraping.count > 1
        count += load.done
        assert stats(path)["listeners"][addr]["accepted"] == count

        killed = who(addr)[1]
        count += 1
        assert stats(path)["listeners"][addr]["accepted"] == count
        os.kill(killed, signal.SIGKILL)
        silly.until("was killed by SIGKILL")
        assert stats(path)["listeners"][addr]["accepted"] == count
        silly.until("is ready")

        silly.send(signal.SIGUSR1)
        reports = silly.until(r"silly: process (\d+), ", times=2)
        assert len(set(reports)) == 2
        assert str(silly.process.pid) not in reports
        silly.stop()
        assert not path.exists()


def test_an_admin_socket_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    options = ["--workers", "2", "--metrics", "127.0.0.1:0", "--admin", "unix:/no/such/directory/s"]
    with running("-m", "silly", *options, script(tmp_path)) as silly:
        output = silly.rest()
        assert "silly: --admin: [Errno 2]" in output
        assert "Traceback" not in output
        assert "listening" not in output
        assert silly.process.returncode == 1


@pytest.mark.parametrize("options", [[], ["--access-log"]])
def test_unwatched_workers_are_not_measured(tmp_path: Path, options: list[str]) -> None:
    text = """
        from silly.metrics.meter import Meter
        import asyncio

        print("users", Meter.of(asyncio.get_running_loop())._users)
    """
    with running("-m", "silly", "--workers", "1", *options, script(tmp_path, text)) as silly:
        assert silly.until(r"users (\d)") == ["0"]
