"""Measures variants of the native engine: ``python experiments/engines.py DIR [DIR...]``.

Each DIR is a checkout of silly in which the native engine was built in place
(``python setup.py build_ext --inplace``), changed as the experiment wants it. One
line in a constant makes an experiment of most choices:

- reactor.pxd, ``GROUP = 1``: hand out and send at once, instead of in groups
- reactor.pyx, ``while served < EVENTS``: to one round, instead of looking again
- net/tcp.py, ``engine.stepped(...)``: left out, tasks are stepped by asyncio
- waiter.pyx, ``if not reactor.direct``: to ``if True``, everybody is woken by `call_soon`
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))

import run  # noqa: E402 - it is found there


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; default: 0.5")
    parser.add_argument("--jobs", default="", help="parts of names; default: all")
    parser.add_argument("--portable", action="store_true", help="compare the portable engines")
    args = parser.parse_args()
    engine = "portable" if args.portable else "native"
    echo = (run.PY, "-m", "silly", str(run.SERVERS / "silly_echo.py"))
    with tempfile.TemporaryDirectory() as built:
        servers = [run.Kind(run.YARDSTICK, (str(Path(built) / "yardstick"),))]
        for directory in args.dirs:
            path = str(directory.resolve() / "src")
            environment = (("SILLY_ENGINE", engine), ("PYTHONPATH", path))
            servers.append(run.Kind(str(directory), echo, environment=environment))
        run.compare(servers, args.jobs, args.rounds, args.seconds, Path(built))


if __name__ == "__main__":
    main()
