"""Every published figure, checked against the server's counts and against other figures."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from silly._values.units import text_of_count
from silly.bench.histogram import Histogram
from silly.bench.recorder import Recorder
from silly.bench.result import PERCENTILES, _examples, schema
from tests.bench import servers
from tests.bench.servers import lines, serving

VALIDATOR = jsonschema.Draft202012Validator(schema())


class Counting:
    """A line echo server that counts, and stops answering after some lines per connection."""

    def __init__(self, answered: int | None = None) -> None:
        self.seen = Counter[str]()
        self._answered = answered
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        self._add("connections", 1)
        for number, line in enumerate(lines(sock)):
            self._add("requests", 1)
            self._add("bytes in", len(line))
            if self._answered is None or number < self._answered:
                sock.sendall(line)
                self._add("answers", 1)
                self._add("bytes out", len(line))

    def _add(self, name: str, count: int) -> None:
        with self._lock:
            self.seen[name] += count


class Run:
    """A run of ``silly bench``, with all its outputs."""

    def __init__(self, folder: Path, addr: str, *options: object) -> None:
        names = {name: folder / f"result.{name}" for name in ("json", "csv", "html")}
        files = [text for name, path in names.items() for text in (f"--{name}", str(path))]
        self.done = subprocess.run(
            [sys.executable, "-m", "silly", "bench", addr, *files, *map(str, options)],
            capture_output=True, check=False, text=True, timeout=50,
        )  # fmt: skip
        assert "Traceback" not in self.done.stderr
        assert names["json"].exists(), self.done.stderr
        self.result: dict[str, Any] = json.loads(names["json"].read_text())
        VALIDATOR.validate(self.result)
        self.rows = list(csv.DictReader(names["csv"].read_text().splitlines()))
        self.page = names["html"].read_text()

    def check(self) -> None:
        """Compare each figure with those that it is derived from."""
        result, rows = self.result, self.result["intervals"]
        counted = [row for row in rows if row["phase"] != "warm-up"]
        measured = [row for row in rows if row["phase"] == "measured"]
        for name in ("requests", "unanswered"):
            assert sum(row[name] for row in counted) == result[name]
        assert sum(row["errors"] for row in rows) == result["errors"]["total"]
        assert sum(result["errors"]["kinds"].values()) == result["errors"]["total"]
        for csv_row, row in zip(self.rows, rows, strict=True):
            for name, text in csv_row.items():
                assert text == ("" if row[name] is None else str(row[name]))
        # Rates are those of the measured time.
        assert sum(row["length"] for row in measured) == pytest.approx(result["duration"])
        answered = sum(row["requests"] for row in measured)
        assert result["rate"] == pytest.approx(answered / result["duration"])
        for row in measured:
            assert row["rate"] == pytest.approx(row["requests"] / row["length"])
        # The latencies are the sum of those of the intervals.
        latency = result["latency"]
        assert latency["count"] == result["requests"] + result["unanswered"]
        whole = Histogram.merged(
            Histogram.from_list(row["histogram"]) for row in counted if row["histogram"]
        )
        assert whole.to_list() == latency["histogram"]
        assert [latency["percentiles"][f"{percent:g}"] for percent in PERCENTILES] == [
            value / 1e9 for value in whole.percentiles(PERCENTILES)
        ]
        assert (latency["min"], latency["max"]) == (whole.low / 1e9, whole.high / 1e9)
        assert latency["mean"] == pytest.approx(whole.total / whole.count / 1e9)
        # The summary and the page.
        text = self.done.stdout
        assert re.search(rf"^requests +{text_of_count(result['requests'])} in ", text, re.MULTILINE)
        lost = text_of_count(result["errors"]["total"])
        assert re.search(rf"^errors +{lost}: ", text, re.MULTILINE)
        for name, value in (
            ("requests / s", result["rate"]),
            ("requests", result["requests"]),
            ("errors", result["errors"]["total"]),
        ):
            assert f"<b>{text_of_count(value)}</b><span>{name}</span>" in self.page
        for line in self.done.stderr.splitlines():
            assert re.search(r"p50 .* p99 .* errors \d", line)
        told = re.findall(r"errors (\d+)$", self.done.stderr, re.MULTILINE)
        assert sum(map(int, told)) == result["errors"]["total"]


@pytest.mark.parametrize(
    "options",
    [
        ["-n", 300, "-c", 3, "-w", 2],
        ["-t", "150ms", "--interval", "40ms", "--warmup", "50ms", "-d", 3],
        ["-t", "150ms", "--interval", "1s", "--rate", 1000],
        ["-n", 100, "--mode", "reconnect"],
    ],
)
def test_the_client_counts_what_the_server_counts(options: list[object], tmp_path: Path) -> None:
    server = Counting()
    with serving(server) as addr:
        run = Run(tmp_path, addr, *options)
    run.check()
    result = run.result
    assert run.done.returncode == 0
    assert result["connect"]["count"] == server.seen["connections"]
    warm = sum(row["requests"] for row in result["intervals"] if row["phase"] == "warm-up")
    assert result["requests"] + warm == server.seen["requests"]
    if "--warmup" not in options:
        assert result["bytes_out"] == server.seen["bytes in"]
        assert result["bytes_in"] == server.seen["bytes out"]
    if "--rate" in options:
        assert result["open_loop"]["sent"] == server.seen["requests"]


@pytest.mark.parametrize("rate", [[], ["--rate", 400]])
def test_unanswered_requests_count_with_the_time_they_waited(
    rate: list[object], tmp_path: Path
) -> None:
    # Each connection answers twice; requests in flight then time out after the end.
    server = Counting(answered=2)
    with serving(server) as addr:
        run = Run(
            tmp_path, addr, "-c", 3, "-t", "300ms", "--interval", "100ms", "--timeout", "400ms",
            "--assert", "p99<100ms", "--assert", "errors<100", *rate,
        )  # fmt: skip
    run.check()
    result = run.result
    assert run.done.returncode == 1  # the claim about p99 fails
    assert [claim["holds"] for claim in result["claims"]] == [False, True]
    assert result["requests"] == server.seen["answers"] == 6
    assert result["errors"]["kinds"] == {"timeout": 3}
    if rate:
        open_loop = result["open_loop"]
        assert (open_loop["scheduled"], open_loop["sent"]) == (120, 9)
        assert result["unanswered"] == 3 + open_loop["unsent"] == 114
        assert result["service"]["count"] == 9
        # They are due 2.5 ms apart, and all wait until the end or later.
        assert result["latency"]["percentiles"]["50"] >= 0.15
    else:
        assert result["unanswered"] == 3
    assert "were not answered, and count with the time waited" in run.done.stdout


@pytest.mark.parametrize(
    ("serve", "rate"),
    [
        (servers.corrupting, []),
        (servers.losing, ["--rate", 2000]),
        (servers.reordering, []),
        (servers.closing, ["--rate", 2000]),
    ],
)
def test_each_sent_request_is_answered_or_an_error(
    serve: servers.Serve, rate: list[object], tmp_path: Path
) -> None:
    with serving(serve) as addr:
        run = Run(
            tmp_path, addr, "-n", 100, "-c", 2, "-d", 8, "--max-errors", 1000,
            "--timeout", "1s", *rate,
        )  # fmt: skip
    run.check()
    result = run.result
    sent = result["bytes_out"] // 64
    assert sent == result["requests"] + result["errors"]["total"] == 100
    if rate:
        assert result["open_loop"]["sent"] == sent
    assert result["errors"]["wrong"] < result["errors"]["total"]


def test_replies_before_and_requests_after_a_wrong_reply_are_counted(tmp_path: Path) -> None:
    def serve(sock: socket.socket) -> None:
        replies = [line for _, line in zip(range(8), lines(sock), strict=False)]
        replies[5] = replies[5][:20] + b"?" + replies[5][21:]
        sock.sendall(b"".join(replies))
        sock.recv(1)

    with serving(serve) as addr:
        run = Run(tmp_path, addr, "-n", 8, "-c", 1, "-d", 8)
    run.check()
    assert run.result["requests"] == 5
    assert run.result["errors"]["kinds"] == {"corrupt": 1, "abandoned": 2}
    assert run.result["errors"]["wrong"] == 1
    assert run.result["errors"]["first"][1] == (
        "connection 0: 2 more requests were in flight when a reply was wrong"
    )
    assert run.result["bytes_in"] == 8 * 64


@pytest.mark.parametrize("rate", [[], ["--rate", 50]])
def test_a_connection_that_times_out_counts_with_the_time_it_took(
    rate: list[object], tmp_path: Path
) -> None:
    # A listener with a full backlog does not answer.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        contextlib.ExitStack() as held,
    ):
        for _ in range(4):
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        run = Run(
            tmp_path, "{}:{}".format(*full.getsockname()), "--mode", "reconnect", "-c", 2,
            "-n", 6, "--timeout", "100ms", "--interval", "100ms", *rate,
        )  # fmt: skip
    run.check()
    result = run.result
    assert result["requests"] == 0
    assert result["errors"]["kinds"] == {"connect": 6}
    assert result["unanswered"] == result["connect"]["count"] == 6
    assert result["latency"]["min"] >= 0.1
    assert result["connect"]["min"] >= 0.1
    assert "6 connections made or timed out" in run.done.stdout


def test_the_rate_of_a_run_with_timeouts_is_of_its_whole_time(tmp_path: Path) -> None:
    with serving(Counting(answered=5)) as addr:
        run = Run(tmp_path, addr, "-n", 6, "-c", 1, "--timeout", "200ms")
    run.check()
    assert run.result["requests"] == 5
    assert run.result["duration"] >= 0.2
    assert run.result["rate"] <= 25


def test_partial_replies_are_named(tmp_path: Path) -> None:
    def half(sock: socket.socket) -> None:
        for line in lines(sock):
            sock.sendall(line[:29])

    with serving(half) as addr:
        run = Run(tmp_path, addr, "-n", 1, "-c", 1, "--timeout", "100ms")
    assert run.result["errors"]["first"] == [
        (
            "connection 0: no complete reply within 100 ms while request 0 was unanswered; "
            "29 of 64 bytes of its reply had arrived"
        )
    ]


def test_examples_of_errors_are_of_each_kind() -> None:
    recorder = Recorder(1.0, lambda _: None, lambda: 0.0)
    for number in range(100):
        recorder.failed(0, "timeout", f"timeout {number}")
    recorder.failed(0, "corrupt", "corrupt", 3)
    assert sum(recorder.now.errors.values()) == recorder.error_count == 103
    examples = _examples([recorder.first_errors, {"closed": ["closed"]}])
    assert examples[:4] == ["timeout 0", "corrupt", "closed", "timeout 1"]
    assert len(examples) <= 20


def test_a_wrong_server_in_all_figures(tmp_path: Path) -> None:
    kinds: Sequence[servers.Serve] = (servers.corrupting, servers.closing, servers.losing)
    turn = iter(range(1000))

    def serve(sock: socket.socket) -> None:
        kinds[next(turn) % 3](sock)

    with serving(serve) as addr:
        run = Run(
            tmp_path, addr, "-c", 3, "-t", "20s", "--interval", "40ms", "--warmup", "20ms",
            "--max-errors", 12, "--timeout", "100ms",
        )  # fmt: skip
    run.check()
    described = " ".join(run.result["errors"]["first"])
    assert run.result["errors"]["total"] >= 12
    for text in ("is wrong", "closed the connection", "no reply within"):
        assert text in described
