"""Run the Autobahn test suite against WebSockets of silly, as server and as client.

    python benchmarks/autobahn.py --wstest build/autobahn/bin/wstest
    python benchmarks/autobahn.py --wstest ... --cases '1.*' '5.*' --engines native

The suite (https://github.com/crossbario/autobahn-testsuite) needs Python 2.7: `make autobahn`
installs it. Every case must be OK, and the connection must end as the suite expects; the exit
code is 1 if one is not. ``--write FILE`` writes the table of results. It can run in parts:
``--results FILE`` keeps the results, and adds to those that are there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

SECTIONS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits and performance",
    "10": "splits",
    "12": "compression: messages",
    "13": "compression: parameters",
}
PASSED = {"OK", "INFORMATIONAL"}
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
LIMITS: Any = {"max_message_bytes": 64 * 1024 * 1024, "max_fragments": 1_000_000}


async def serve() -> None:
    """Echo messages, until the standard input is closed."""
    from silly.net import tcp, websocket

    async def echo(ws: websocket.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    listener = websocket.listen("127.0.0.1:0", echo, limits=tcp.Limits(**LIMITS))
    print(listener.local_addr, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await listener.close(0)


async def ask(url: str, agent: str) -> None:
    """Be the client of all cases that the server at *url* has, then have it write its report."""
    from silly.net import tcp, websocket

    limits = tcp.Limits(**LIMITS)
    async with websocket.connect(f"{url}/getCaseCount", compression=False) as ws:
        count = int(await ws.recv())
    for case in range(1, count + 1):
        try:
            case_url = f"{url}/runCase?case={case}&agent={agent}"
            async with websocket.connect(case_url, limits=limits) as ws:
                async for message in ws:
                    await ws.send(message)
        except OSError:
            pass  # most cases end in one
    async with websocket.connect(f"{url}/updateReports?agent={agent}", compression=False) as ws:
        await ws.wait_closed()


def run(role: str, *arguments: str, engine: str, **options: Any) -> subprocess.Popen[str]:
    """Start this program as a server or client."""
    command = [sys.executable, __file__, f"--{role}", *arguments]
    environ = os.environ | {"SILLY_ENGINE": engine}
    return subprocess.Popen(command, env=environ, text=True, **options)


def test_server(wstest: str, cases: list[str], engine: str, reports: Path) -> None:
    """Have the suite test our server."""
    server = run("serve", engine=engine, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with server:
        assert server.stdout is not None
        url = f"ws://{server.stdout.readline().strip()}"
        spec = {
            "servers": [{"agent": engine, "url": url}],
            "outdir": str(reports),
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = reports.parent / "server.json"
        path.write_text(json.dumps(spec))
        subprocess.run(
            [wstest, "-m", "fuzzingclient", "-s", str(path)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        assert server.stdin is not None
        server.stdin.close()


def test_client(wstest: str, cases: list[str], engine: str, reports: Path) -> None:
    """Have the suite test our client."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    url = f"ws://127.0.0.1:{port}"
    spec = {
        "url": url,
        "outdir": str(reports),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    path = reports.parent / "client.json"
    path.write_text(json.dumps(spec))
    suite = subprocess.Popen(
        [wstest, "-m", "fuzzingserver", "-u", "0", "-s", str(path)], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(port, suite)
        if run("ask", url, engine, engine=engine).wait():
            raise SystemExit("the client failed")
    finally:
        suite.terminate()
        suite.wait()


def wait_for(port: int, suite: subprocess.Popen[bytes]) -> None:
    """Wait until the suite listens."""
    while suite.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise SystemExit("the suite did not start")


def results_of(reports: Path) -> dict[str, str]:
    """Return what became of each case; print why, where that is not OK."""
    results = {}
    for cases in json.loads((reports / "index.json").read_text()).values():
        for case, result in cases.items():
            how = result["behavior"]
            if how in PASSED and result["behaviorClose"] not in PASSED:
                how = f"close {result['behaviorClose']}"
            if how not in PASSED:
                report = json.loads((reports / result["reportfile"]).read_text())
                print(f"case {case}: {how}: {report['result']} {report['resultClose']}")
            results[case] = how
    return results


def read_results(path: Path | None) -> dict[tuple[str, str], dict[str, str]]:
    """Return the results in the file at *path*, if there are any."""
    if path is None or not path.exists():
        return {}
    kept = json.loads(path.read_text())
    return {(role, engine): results for role, engine, results in kept}


def write_results(path: Path, all_results: dict[tuple[str, str], dict[str, str]]) -> None:
    kept = [(role, engine, results) for (role, engine), results in all_results.items()]
    path.write_text(json.dumps(kept, indent=1))


def by_section(results: dict[str, str]) -> dict[str, Counter[str]]:
    sections: dict[str, Counter[str]] = defaultdict(Counter)
    for case, how in results.items():
        sections[case.partition(".")[0]][how] += 1
    return sections


def table(all_results: dict[tuple[str, str], dict[str, str]]) -> str:
    """Return the table of results, in Markdown."""
    columns = list(all_results)
    lines = [
        "| section | " + " | ".join(f"{role}, {engine}" for role, engine in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    counts = {column: by_section(results) for column, results in all_results.items()}
    for number, name in SECTIONS.items():
        cells = [
            ", ".join(f"{count} {how}" for how, count in sorted(counts[column][number].items()))
            for column in columns
        ]
        if any(cells):
            lines.append(f"| {number}.* {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--wstest", help="the suite's program")
    parser.add_argument("--cases", nargs="+", default=["*"], help="which to run, such as '1.*'")
    parser.add_argument("--engines", nargs="+", default=["native", "portable"])
    parser.add_argument("--roles", nargs="+", default=["server", "client"])
    parser.add_argument("--results", type=Path, help="a file of results to add to")
    parser.add_argument("--write", type=Path, help="a page whose table of results to replace")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    if options.ask:
        asyncio.run(ask(*options.ask))
        return
    all_results = read_results(options.results)
    for role in options.roles:
        test = test_server if role == "server" else test_client
        for engine in options.engines:
            with tempfile.TemporaryDirectory() as directory:
                reports = Path(directory, "reports")
                reports.mkdir()
                test(options.wstest, options.cases, engine, reports)
                all_results.setdefault((role, engine), {}).update(results_of(reports))
            if options.results:
                write_results(options.results, all_results)
    print(table(all_results), end="")
    wrong = {
        (role, engine, case): how
        for (role, engine), results in all_results.items()
        for case, how in results.items()
        if how not in PASSED
    }
    for (role, engine, case), how in wrong.items():
        print(f"{role}, {engine}: case {case}: {how}")
    if options.write:
        page = options.write.read_text()
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        options.write.write_text(f"{before}{BEGIN}\n{table(all_results)}{END}{after}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
