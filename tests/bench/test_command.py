"""``silly bench`` as a user runs it: in its own process, against servers on loopback."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import silly
from silly._values.units import text_of_count
from silly.bench.result import schema
from tests.bench import servers
from tests.bench.servers import serving
from tests.cli.terminal import called, misused, python_path

BENCH = [sys.executable, "-m", "silly", "bench"]
VALIDATOR = jsonschema.Draft202012Validator(schema())


def bench(*args: object, code: int | tuple[int, ...] = 0, env: dict[str, str] | None = None) -> Any:
    done = subprocess.run(
        [*BENCH, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **(env or {})},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), (
        done.stdout, done.stderr,
    )  # fmt: skip
    return done


def measured(*args: object, code: int = 0) -> dict[str, Any]:
    """Run with ``--json -``; return the result after checking it against the schema."""
    done = bench(*args, "-q", "--json", "-", code=code)
    result: dict[str, Any] = json.loads(done.stdout)
    VALIDATOR.validate(result)
    return result


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with serving(servers.echo) as addr:
        yield addr


def one_line(done: Any) -> str:
    assert re.fullmatch(r"silly bench[^\n]*\n", done.stderr), done.stderr
    return str(done.stderr)


# -------------------------------------------------------------------------- the load


@pytest.mark.no_engine
@pytest.mark.parametrize(
    "options",
    [
        ["--connections", "20", "--workers", "2"],
        ["--size", "1"],
        ["--size", "3", "--depth", "5"],
        ["--size", "64-1024", "--depth", "4"],
        ["--size", "64:90%,4096:10%", "--seed", "5"],
        ["--framing", "fixed", "--size", "100"],
        ["--framing", "length-prefix", "--size", "0-300"],
        ["--framing", "raw", "--size", "100k", "--depth", "3"],
        ["--template", r"GET /{seq}?c={conn}\t"],
        ["--template", "{seq}", "--framing", "raw"],
        ["--send", r"a{seq}\r\n", "--expect", r"a{seq}\r\n", "--send", "bb", "--expect", "bb"],
        ["--mode", "reconnect"],
        ["--mode", "reconnect", "--rate", "4k"],
        ["--rate", "4k", "--no-busy-poll", "--depth", "3"],
        ["--rate", "4k", "--workers", "2", "--size", "64-200"],
        ["--busy-poll"],
        ["--connect-rate", "500", "--timeout", "2s", "--max-errors", "5", "--interval", "20ms"],
    ],
)
def test_every_reply_is_counted(echo: str, options: list[str]) -> None:
    result = measured(echo, "-n", 200, *options)
    assert (result["outcome"], result["requests"], result["errors"]["total"]) == (
        "finished",
        200,
        0,
    )
    assert result["latency"]["count"] == 200
    assert sum(part["requests"] for part in result["intervals"]) <= 200
    assert result["rate"] > 0
    if "--rate" in options:
        assert result["service"]["count"] == 200
        assert result["open_loop"]["sent"] == result["open_loop"]["scheduled"] == 200
        assert result["open_loop"]["unsent"] == 0
        # A latency from when a request was due is never shorter than from when it was sent.
        assert result["latency"]["mean"] >= result["service"]["mean"]
    else:
        assert result["service"] is result["open_loop"] is None
    if "reconnect" in options:
        assert result["connect"]["count"] == 200


def test_bytes_are_those_of_the_messages(echo: str) -> None:
    result = measured(echo, "-n", 50, "-s", 100, "--framing", "length-prefix")
    assert result["bytes_in"] == result["bytes_out"] == 50 * 104


@pytest.mark.parametrize("framing", ["line", "raw"])
def test_data_of_a_file(echo: str, tmp_path: Path, framing: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"one\nand two\n\xff\nlast")
    result = measured(echo, "-n", 8, "-c", 1, "--data", path, "--framing", framing)
    # The last line gets the missing newline; with raw framing the file is sent as it is.
    assert result["bytes_in"] == (2 * 19 if framing == "line" else 8 * 18)
    assert result["plan"]["data"] == 18


def test_a_duration(echo: str) -> None:
    result = measured(echo, "-t", "200ms", "--interval", "50ms", "--warmup", "100ms")
    assert result["duration"] == 0.2
    parts = [part for part in result["intervals"] if part["phase"] == "measured"]
    assert [part["start"] for part in parts] == pytest.approx([0, 0.05, 0.1, 0.15])
    assert result["plan"]["warmup"] == 0.1
    # Replies after the measured time only count for the latencies.
    within = sum(part["requests"] for part in parts)
    assert within <= result["requests"] == result["latency"]["count"]
    assert result["rate"] == pytest.approx(within / 0.2)


def test_a_warm_up_is_left_out(echo: str) -> None:
    result = measured(echo, "-n", 100, "--warmup", "100ms", "-c", 3)
    assert result["requests"] == 100


def test_stages_of_connections(echo: str) -> None:
    stages = ["--stage", "100ms:12", "--stage", "300ms:12", "--stage", "50ms:2"]
    result = measured(echo, *stages, "-w", 2)
    assert result["duration"] == pytest.approx(0.45)
    assert result["connect"]["count"] == 12
    assert result["errors"]["total"] == 0


def test_stages_of_rates(echo: str) -> None:
    result = measured(echo, "--rate", "0", "--stage", "100ms:2000", "--stage", "100ms:0")
    assert result["open_loop"]["scheduled"] == 200
    assert result["requests"] == result["open_loop"]["sent"]


def test_idle_connections_are_held_and_answer_at_the_end(echo: str) -> None:
    result = measured(echo, "--mode", "hold", "-c", 30, "-t", "400ms", "--connect-rate", "2k")
    assert result["requests"] == result["connect"]["count"] == 30
    assert result["errors"]["total"] == 0


def test_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    script = tmp_path / "server.py"
    script.write_text(
        "import sys\nfrom silly.net import tcp\n"
        "async def echo(conn):\n    async for line in conn:\n        await conn.write(line)\n"
        "tcp.listen(sys.argv[1], echo)\nprint('ready', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "silly", str(script), f"unix:{path}"], stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            out = tmp_path / "result.json"
            done = bench(f"unix:{path}", "-n", 200, "--pid", server.pid, "--json", out)
            result = json.loads(out.read_text())
            assert result["requests"] == 200
            assert result["server"]["pid"] == server.pid
            assert result["server"]["rss"] > 1 << 20
            assert result["server"]["cpu_per_request"] >= 0
            assert re.search(
                r"^server +\d.* cores, .* per request, .*B resident", done.stdout, re.MULTILINE
            )
        finally:
            server.terminate()


# ---------------------------------------------------------------------- other servers


def test_redis_answers_pings(port: int, tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if "Ready to accept connections" in line:
                    break
            addr = f"127.0.0.1:{port}"
            pairs = ["--send", r"PING\r\n", "--expect", r"+PONG\r\n"]
            result = measured(addr, "-n", 500, "-d", 4, *pairs)
            assert result["requests"] == 500
            pairs += ["--send", r"ECHO {seq}\r\n", "--expect", r"$1\r\n{seq}\r\n"]
            assert (
                measured(addr, "-n", 10, *pairs, "-c", 2)["requests"] == 10
            )  # {conn} has one digit
            done = bench(addr, "-n", 5, "--send", r"NONSENSE\r\n", "--expect", r"+OK\r\n", code=4)
            assert re.search(
                r"connection \d: request 0: byte 0 of the reply is wrong: "
                r"expected b'\+OK\\r\\n', got b'-ERR",
                done.stdout,
            )
        finally:
            server.terminate()


def test_socat_echoes(port: int) -> None:
    if shutil.which("socat") is None:
        pytest.skip("socat is not installed")
    with subprocess.Popen(
        ["socat", "-d", "-d", f"tcp-listen:{port},bind=127.0.0.1,reuseaddr,fork", "exec:cat"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            for line in server.stderr:
                if "listening on" in line:
                    break
            assert measured(f"127.0.0.1:{port}", "-n", 100, "-c", 2)["requests"] == 100
        finally:
            server.terminate()


# ------------------------------------------------------------------- wrong servers


@pytest.mark.parametrize(
    ("serve", "kind", "text"),
    [
        (servers.corrupting, "corrupt",
         r"connection \d+: request 5: byte 20 of the reply is wrong: expected .* got .*\?"),
        (servers.losing, "lost",
         r"connection \d+: request 5: the reply to request 6 came in its place \(byte 9 differs"),
        (servers.doubling, "duplicate",
         r"connection \d+: the reply to request 5 came twice, the second time for request 6"),
        (servers.reordering, "reordered",
         r"connection \d+: request 5: the reply to request 6 came before it"),
        (servers.closing, "closed",
         r"connection \d+: the server closed the connection while request 5 was unanswered"),
        (servers.resetting, "lost connection",
         r"connection \d+: Connection reset by peer while request 0 was unanswered"),
        (servers.greeting, "corrupt",
         r"connection \d+: request 0: byte 0 of the reply is wrong: .* got b'220 ready"),
    ],
)  # fmt: skip
def test_wrong_replies_are_named(
    serve: servers.Serve, kind: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    # A server that closes while more requests are on their way resets the connection.
    depth = 1 if serve is servers.closing else 3
    with serving(serve) as addr:
        done = bench(
            addr, "-n", 500, "-c", 2, "-d", depth, "--max-errors", 9, "--json", path, code=4
        )  # fmt: skip
    result = json.loads(path.read_text())
    VALIDATOR.validate(result)
    assert result["errors"]["kinds"].get(kind), result["errors"]
    assert any(re.match(text, each) for each in result["errors"]["first"]), result["errors"]
    assert result["outcome"] == "stopped"
    assert result["why"] in done.stdout
    # The correct replies before the error are counted and shown.
    if serve not in (servers.resetting, servers.greeting):
        assert result["requests"] >= 5
        assert re.search(r"^  p50 +\d", done.stdout, re.MULTILINE)


def test_a_reply_for_another_connection_is_named() -> None:
    with serving(servers.Exchanging()) as addr:
        result = measured(addr, "-n", 10, "-c", 2, "--max-errors", 1, code=4)
    assert result["errors"]["kinds"].keys() == {"misdelivered"}
    assert re.match(
        r"connection (0: .*the reply is for connection 1|1: .*the reply is for connection 0)",
        result["errors"]["first"][0],
    )


def test_wrong_replies_fail_even_where_errors_are_allowed() -> None:
    with serving(servers.corrupting) as addr:
        bench(addr, "-n", 20, "-c", 1, "--assert", "errors<100", code=4)


def test_lost_connections_can_be_allowed() -> None:
    with serving(servers.closing) as addr:
        bench(addr, "-n", 20, "-c", 1, "--assert", "errors<100", code=0)
        bench(addr, "-n", 20, "-c", 1, "--assert", "errors==0", code=1)
        result = measured(addr, "-n", 20, "-c", 1, code=4)
        assert result["requests"] + result["errors"]["total"] == 20


def test_no_reply_in_time() -> None:
    with serving(servers.silent) as addr:
        result = measured(addr, "-n", 3, "-c", 3, "--timeout", "100ms", code=4)
    assert result["errors"]["kinds"] == {"timeout": 3}
    assert re.match(
        r"connection \d: no reply within 100 ms while request 0 was unanswered",
        result["errors"]["first"][0],
    )


def test_a_stall_is_not_hidden_by_the_open_loop(tmp_path: Path) -> None:
    # The server stalls once, for 200 ms, while some 100 requests are due: with a schedule,
    # all of them are late, and count with the time that they waited.
    def stalling(sock: socket.socket) -> None:
        for number, line in enumerate(servers.lines(sock)):
            if number == 20:
                threading.Event().wait(0.2)
            sock.sendall(line)

    path = tmp_path / "result.json"
    with serving(stalling) as addr:
        done = bench(addr, "-n", 300, "-c", 1, "--rate", 500, "--json", path)
    result = json.loads(path.read_text())
    assert result["requests"] == 300
    assert result["service"]["percentiles"]["90"] < result["latency"]["percentiles"]["90"]
    assert result["open_loop"]["late"] > 50
    assert re.search(r"^latency +from due time +from sending$", done.stdout, re.MULTILINE)
    assert "all connections were busy when" in done.stdout


def test_requests_that_are_never_sent_are_reported() -> None:
    with serving(servers.silent) as addr:
        result = measured(
            addr, "-c", 2, "--rate", 1000, "-t", "200ms", "--timeout", "300ms", code=4
        )
    open_loop = result["open_loop"]
    assert (open_loop["scheduled"], open_loop["sent"], open_loop["unsent"]) == (200, 2, 198)


# -------------------------------------------------------------------------- bad input


@pytest.mark.no_engine
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-n", "5", "-t", "1s"], "--requests and --duration"),
        (["--stage", "1s:5", "-t", "1s"], "--stage and --duration"),
        (["--stage", "1s:5", "-n", "1"], "--stage and --requests"),
        (["--stage", "1s:1.5"], "must be whole"),
        (["--stage", "soon"], "is not a stage such as 30s:100"),
        (["--mode", "hold", "--rate", "5"], "--rate and --mode hold"),
        (["--mode", "hold", "-n", "5"], "--requests and --mode hold"),
        (["--mode", "hold", "-d", "5"], "--depth and --mode hold"),
        (["--mode", "reconnect", "-d", "5"], "--depth and --mode reconnect"),
        (["--mode", "reconnect", "--connect-rate", "5"], "--connect-rate and --mode reconnect"),
        (["--mode", "other"], "'other' is not one of 'keep', 'reconnect', 'hold'"),
        (["-w", "5", "-c", "4"], "--workers 5: only 4 connections"),
        (["-c", "0"], "--connections must be 1 or more, not 0"),
        (["-c", "few"], "'few' is not a number such as"),
        (
            ["-d", "30s"],
            "'30s' is not a number such as 1000, 10k or 1M; for a duration, use -t 30s",
        ),
        (["-d", "0"], "--depth must be 1 or more"),
        (["-d", "few"], "'few' is not a number such as"),
        (["-t", "0s"], "--duration must be more than 0"),
        (["-t", "long"], "'long' is not a duration such as"),
        (["--rate", "0"], "--rate must be more than 0"),
        (["--size", "big"], "'big' is not a size"),
        (["--size", "0"], "--size must be 1 or more for --framing line"),
        (["--size", "1-5", "--framing", "fixed"], "--framing fixed needs one --size"),
        (["--send", "x"], "--send and --expect come in pairs: got 1 --send and 0 --expect"),
        (["--send", "x", "--expect", "y", "--size", "5"], "--send and --size"),
        (["--send", "x", "--expect", ""], "must not be empty"),
        (["--send", r"\q", "--expect", "y"], "unknown backslash escape"),
        (["--template", "x", "--size", "5"], "--template and --size"),
        (["--template", "x", "--send", "x", "--expect", "y"], "--template: give one of them"),
        (["--udp", "--data", __file__], "--udp and --data: each payload needs its number"),
        (["--interval", "100us"], "--interval must be"),
        (["--template", "x", "--framing", "length-prefix"], "use --data"),
        (["--template", r"x\ny"], "makes two lines"),
        (["--data", "/missing"], "--data: cannot read '/missing': No such file"),
        (["--data", "/dev/null"], "--data: the file is empty"),
        (["--assert", "p99"], "'p99' is not a claim"),
        (["--json", "/missing/x"], "--json: cannot write '/missing/x': No such file"),
        (["--html", "/"], "--html: cannot write '/': Is a directory"),
        (["--csv", "/proc/x"], "--csv: cannot write '/proc/x': "),
        (["--csv", "-", "--json", "-"], "only one of --json, --csv and --html"),
        (["--pid", "999999999"], "--pid 999999999: cannot read /proc/999999999/stat: No such file"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_is_one_line(echo: str, options: list[str], why: str) -> None:
    assert why in misused("bench", echo, *options)


@pytest.mark.no_engine
@pytest.mark.parametrize("addr", ["nonsense", "127.0.0.1:0", "127.0.0.1:99999", "::1:5"])
def test_a_bad_address_is_one_line(addr: str) -> None:
    text = misused("bench", addr)
    assert f"ADDR {addr!r} is not an address" in text or "has port 0" in text


@pytest.mark.no_engine
def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        addr = "{}:{}".format(*sock.getsockname())
        text = one_line(bench(addr, "--json", tmp_path / "r.json", code=3))
    assert text == f"silly bench: cannot reach {addr}: Connection refused\n"
    assert "cannot reach" in one_line(bench("unix:/missing", code=3))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_goes_away_ends_the_run(port: int) -> None:
    went = threading.Event()

    def leaving(sock: socket.socket) -> None:
        for number, line in enumerate(servers.lines(sock)):
            sock.sendall(line)
            if number == 20:
                listener.close()
                went.set()
                return

    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        with listener.accept()[0] as sock:
            leaving(sock)

    thread = threading.Thread(target=accept)
    thread.start()
    result = measured(f"127.0.0.1:{port}", "-t", "30s", "-c", 1, code=4)
    thread.join()
    assert went.is_set()
    assert result["requests"] == 21
    assert result["outcome"] == "stopped"
    assert result["why"] == "could not connect any more: Connection refused"
    assert result["errors"]["kinds"]["connect"] == 10
    assert result["errors"]["kinds"].keys() - {"connect"} <= {"closed", "lost connection"}


# ------------------------------------------------------------------------ interruption


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_prints_the_results_so_far(
    echo: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "result.json"
    with subprocess.Popen(
        [*BENCH, echo, "-t", "60s", "--interval", "50ms", "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "/s" in process.stderr.readline()
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert re.search(r"^requests +\d.* in .*, interrupted$", output, re.MULTILINE)
    result = json.loads(path.read_text())
    VALIDATOR.validate(result)
    assert result["outcome"] == "interrupted"
    assert 0 < result["duration"] < 60
    assert result["errors"]["total"] == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_whole_group_prints_the_results_so_far(
    echo: str, number: signal.Signals, code: int
) -> None:
    """Timeout(1), terminals and service managers send the signal to the workers, too."""
    with subprocess.Popen(
        [*BENCH, echo, "-t", "60s", "-w", "2", "--interval", "50ms", "--json", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stderr is not None
        assert "/s" in process.stderr.readline()
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    result = json.loads(output)
    assert result["outcome"] == "interrupted"
    assert result["requests"] > 0
    assert re.search(r"^requests +\d.* in .*, interrupted$", errors, re.MULTILINE)


def test_nohup_is_respected(echo: str) -> None:
    with subprocess.Popen(
        ["nohup", *BENCH, echo, "-t", "300ms", "--interval", "50ms", "-q"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        _until_waiting(process.pid)
        os.killpg(process.pid, signal.SIGHUP)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "interrupted" not in output


def test_interrupted_while_connecting(tmp_path: Path) -> None:
    # With a full backlog, further connections get no answer.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        addr = listener.getsockname()
        with socket.create_connection(addr), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(addr)
            with subprocess.Popen(
                [*BENCH, "{}:{}".format(*addr), "--json", str(tmp_path / "r.json")],
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                _until_waiting(process.pid)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "silly bench: interrupted while connecting\n"
    assert list(tmp_path.iterdir()) == []


def test_the_usage_of_a_server_that_ends_is_that_until_then(echo: str) -> None:
    with subprocess.Popen(["sleep", "100"]) as server:
        with subprocess.Popen(
            [*BENCH, echo, "-t", "400ms", "--interval", "50ms", "--pid", str(server.pid),
             "--json", "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            assert "/s" in process.stderr.readline()
            server.kill()
            server.wait()
            output, _ = process.communicate(timeout=30)
    result = json.loads(output)
    VALIDATOR.validate(result)
    assert result["server"]["pid"] == server.pid


def _until_waiting(pid: int) -> None:
    """Wait until the process has a worker; it then waits for the worker to connect."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not children.read_text():
        pass


def test_a_worker_that_is_killed_is_one_line(echo: str) -> None:
    with subprocess.Popen(
        [*BENCH, echo, "-t", "60s", "--interval", "50ms"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "/s" in process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGKILL)
        errors = process.stderr.read()
    assert process.returncode == 4
    assert errors.splitlines()[-1] == "silly bench: a benchmark worker was killed"


def test_workers_end_with_their_parent(echo: str) -> None:
    with subprocess.Popen(
        [*BENCH, echo, "-t", "60s", "--interval", "50ms"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.kill()
        while process.stderr.read(
            4096
        ):  # the worker has it open, too, so it ends when the worker does
            pass


# ------------------------------------------------------------------------------ output


@pytest.mark.no_engine
def test_summary_and_lines(echo: str) -> None:
    done = bench(echo, "-t", "200ms", "--interval", "100ms", "--assert", "errors==0")
    assert re.search(rf"^{echo}: closed loop, 10 connections$", done.stdout, re.MULTILINE)
    assert "every reply was right, byte for byte" in done.stdout
    assert "holds: errors==0 (0)" in done.stdout
    lines = done.stderr.splitlines()
    # A worker that starts late measures less of the first interval.
    assert re.fullmatch(r" +0\.(?:1|0\d+) s +[\d ]+ /s  p50 .*  p99 .*  max .*  errors 0", lines[0])
    assert re.match(r" +0\.2 s", lines[1])
    assert bench(echo, "-n", 5, "-q").stderr == ""


@pytest.mark.no_engine
def test_a_terminal_without_greek_letters(echo: str) -> None:
    done = bench(echo, "-n", 5, "--interval", "1ms", env={"PYTHONIOENCODING": "ascii"})
    assert re.search(r"^  p50 +[\d.]+ [?m]s$", done.stdout, re.MULTILINE)


@pytest.mark.no_engine
def test_claims_that_fail(echo: str) -> None:
    done = bench(echo, "-n", 50, "--assert", "p99<1ns", "--assert", "requests==50", code=1)
    assert re.search(r"^FAILS: p99<1ns \(.* .s\)$", done.stdout, re.MULTILINE)
    assert "holds: requests==50 (50)" in done.stdout


@pytest.mark.no_engine
def test_csv(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "result.csv"
    bench(echo, "-t", "200ms", "--interval", "50ms", "--csv", path)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    rows = [row for row in rows if row["phase"] == "measured"]
    assert [float(row["start"]) for row in rows] == pytest.approx([0, 0.05, 0.1, 0.15])
    answered = [row for row in rows if row["requests"] != "0"]
    assert answered
    assert all(0 < float(row["p50"]) <= float(row["p99"]) <= float(row["max"]) for row in answered)
    piped = bench(echo, "-n", 5, "--csv", "-")
    assert piped.stdout.startswith("phase,start,length,requests,rate,errors,unanswered,late,p50")
    assert "requests    5" in piped.stderr


@pytest.mark.no_engine
def test_files_are_replaced_completely(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")
    bench(echo, "-n", 5, "--json", path, "--csv", "/dev/null")
    assert json.loads(path.read_text())["requests"] == 5
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.no_engine
def test_standard_output_has_only_the_data(echo: str, tmp_path: Path) -> None:
    found = json.loads(bench(echo, "-n", 5, "--json", "/dev/stdout").stdout)
    assert found["requests"] == 5
    search = ["find-max", echo, "--slo", "p99<10s", "--tries", "1", "-t", "100ms", "--json", "-"]
    done = subprocess.run(
        [*BENCH, *search], check=False, capture_output=True, text=True, timeout=30
    )  # fmt: skip
    assert re.match(" +rate +answered", done.stderr)
    assert not done.stdout or json.loads(done.stdout)["rate"] > 0
    path = tmp_path / "out.json"
    with path.open("w") as file:  # like a shell's redirection to the same file
        subprocess.run(
            [*BENCH, echo, "-n", "5", "-q", "--json", path], check=True, stdout=file, timeout=30,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    assert json.loads(path.read_text())["requests"] == 5


@pytest.mark.no_engine
def test_outputs_must_be_different_files(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "result"
    for options in (["--csv", path, "--json", path], ["--csv", "/dev/stdout", "--json", "-"]):
        text = one_line(bench(echo, "-n", 5, *options, code=2))
        assert "only one of --json, --csv and --html can be written to" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.no_engine
def test_the_files_are_written_even_if_the_summary_cannot_be(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    command = 'exec "$@" > /dev/full'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *BENCH, echo, "-n", "5", "-q", "--json", path],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "silly bench: cannot write standard output: No space left on device\n"
    assert json.loads(path.read_text())["requests"] == 5


@pytest.mark.no_engine
def test_help_version_and_missing_arguments() -> None:
    text = called("bench", "--help").stdout
    for part in ("Load:", "Messages:", "Checks:", "Output:", "Examples:", "Exit codes:"):
        assert f"\n{part}\n" in text
    assert text.count("\n  silly bench localhost:") == 4
    assert "A.json B.json" in called("bench", "compare", "--help").stdout
    assert "--slo" in called("bench", "find-max", "-h").stdout
    assert "Missing argument 'ADDR'" in misused("bench")


# ------------------------------------------------------------- compare and find-max


@pytest.mark.no_engine
def test_compare(echo: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for path, options in ((one, ["-c", "2"]), (two, ["-c", "4"])):
        bench(echo, "-t", "300ms", "--interval", "30ms", "--json", path, "-q", *options)
    done = called("bench", "compare", one, two)
    assert re.search(
        r"^rate +\S.* \d\.\d{3} +\d+\.\d{3} to \d+\.\d{3} +\w+$", done.stdout, re.MULTILINE
    )
    assert "warning: connections was 2 and 4" in done.stdout
    same = called("bench", "compare", one, one)
    assert same.stdout.count(" 1.000 ") >= 4
    assert same.stdout.count("noise") >= 4


@pytest.mark.no_engine
def test_compare_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("", "{}", "[1]", '{"schema": "other/1"}'):
        path.write_text(text)
        assert "is not a result of silly bench --json" in misused("bench", "compare", path, path)
    assert "cannot read '/missing'" in misused("bench", "compare", "/missing", path)


def test_what_cannot_be_written_does_not_keep_the_rest_back(echo: str, tmp_path: Path) -> None:
    done = bench(
        echo, "-n", "5", "--json", "/dev/full", "--csv", tmp_path / "x.csv", code=2,
        env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert re.search(r"^requests +5 ", done.stdout, re.MULTILINE)
    assert "--json: cannot write '/dev/full': No space left on device" in done.stderr
    assert (tmp_path / "x.csv").read_text()


def test_a_search_that_is_interrupted_in_its_first_try(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with subprocess.Popen(
        [*BENCH, "find-max", echo, "--slo", "p50<10s", "-t", "60s", "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "answered" in process.stdout.readline()
        _until_waiting(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in errors) == (130, False)
    assert "highest rate that held" not in output
    assert not path.exists()


def test_a_precision_is_a_share() -> None:
    for text in ("0", "2"):
        assert f"'{text}' is not a share such as 5%" in misused(
            "bench", "find-max", "127.0.0.1:1", "--slo", "p50<1s", "--precision", text
        )


@pytest.mark.no_engine
def test_find_max(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    done = bench(
        "find-max", echo, "--slo", "p50<10s", "--start", 40, "-t", "200ms", "--tries", 4,
        "--json", path, code=(0, 5),
    )  # fmt: skip
    result = json.loads(path.read_text())
    VALIDATOR.validate(result)
    assert result["find_max"]["rate"] == result["plan"]["rate"]
    assert len(result["find_max"]["tries"]) >= 4
    assert ("the client was the limit" in done.stdout) >= (done.returncode == 5)
    told = f"highest rate that held: {text_of_count(result['plan']['rate'])} /s"
    assert told in done.stdout.splitlines()
    failed = bench(
        "find-max", echo, "--slo", "p50<1ns", "--start", 4, "-t", "50ms", "-w", 1, "--json", path,
        code=(1, 5),
    )  # fmt: skip
    none = json.loads(path.read_text())
    VALIDATOR.validate(none)
    assert none["find_max"]["rate"] is None
    # On a busy machine this client may be late.
    assert none["find_max"]["limit"] == ("client" if failed.returncode == 5 else "server")
    assert "no rate held" in failed.stdout
    assert failed.stdout.count("p50 was") == 3
    assert "--slo" in misused("bench", "find-max", echo)


@pytest.mark.no_engine
def test_find_max_stops_at_a_wrong_reply() -> None:
    with serving(servers.corrupting) as addr:
        done = bench("find-max", addr, "--slo", "p50<1s", "-t", "100ms", "-c", 1, code=4)
    assert "byte 20 of the reply is wrong" in done.stdout


# ------------------------------------------------------------------------ the dispatcher


@pytest.mark.no_engine
def test_a_missing_extra_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('there is none', name='click')")
    done = bench("x:1", code=2, env={"PYTHONPATH": python_path(tmp_path)})
    assert done.stderr.startswith("silly bench needs click: ")
    assert done.stderr.endswith(" -m pip install click prompt-toolkit rich\n")


@pytest.mark.no_engine
def test_a_file_named_like_a_verb(tmp_path: Path) -> None:
    (tmp_path / "bench").write_text("print('a script', __name__)")
    done = subprocess.run(
        [sys.executable, "-m", "silly", "./bench"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "a script __main__\n")


@pytest.mark.no_engine
def test_the_help_of_the_command_lists_the_verbs() -> None:
    for args, code in ((["--help"], 0), ([], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "silly", *args], capture_output=True, text=True, check=False
        )
        assert done.returncode == code
        assert "  silly bench     load-test a server" in done.stdout + done.stderr
        assert "usage: silly" in done.stdout + done.stderr


def test_the_result_names_the_engine(echo: str) -> None:
    assert measured(echo, "-n", 5)["engine"] == silly.engine()
