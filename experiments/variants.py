"""Measure what design choices in the engine gain: ``python experiments/variants.py NAME...``.

A variant is the source code with one choice undone. It is copied to build/variants/, built
there (with Cython, which ``pip install -e '.[bench]'`` installs), and measured against an
unchanged copy built the same way. A throughput below 1.00x means that the choice gains the
difference. ``a+b`` makes both changes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import machine  # noqa: E402 - found through sys.path
import run  # noqa: E402

NATIVE = "src/silly/_engine/native"
ECHO = "benchmarks/servers/silly_echo.py"
SOURCES = ("src/**/*.py", "src/**/*.py[xi]", "src/**/*.pxd", ECHO)
PROJECT = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Variant:
    name: str
    file: str
    old: str  # occurs once in the file
    new: str
    why: str
    jobs: tuple[str, ...] = ("ping-pong 64 B",)  # the jobs it affects: parts of their names


VARIANTS = (
    Variant(
        "call_soon",
        f"{NATIVE}/reactor.pyx",
        "self.direct = self.in_batch = True",
        "self.in_batch = True",
        "wake each task through the loop's queue, as an asyncio.Future does",
    ),
    Variant(
        "task",
        f"{NATIVE}/trampoline.pyx",
        "    trampoline.coroutine = coroutine\n",
        "    task = loop.create_task(coroutine, name=name, context=context)\n"
        "    task.add_done_callback(ended, context=ended_context)\n"
        "    return task\n",
        "no trampoline: the task makes each step",
    ),
    Variant(
        "eager",
        f"{NATIVE}/receiving.pxd",
        "LARGE = 16384",
        "LARGE = 0",
        "send each write at once",
        ("64 B, 100 conn", "in flight"),
    ),
    Variant(
        "eager_first",
        f"{NATIVE}/sending.pyx",
        "        batched = self.batched + length\n",
        "        batched = self.batched + length\n"
        "        if not self.flush_scheduled:\n"
        "            self.flush_scheduled = True\n"
        "            self.reactor.flush_later(self)\n"
        "            return self.write_at_once(<bytes>data)\n",
        "send the first write of a turn at once, the others together",
        ("64 B, 100 conn", "in flight"),
    ),
    Variant(
        "single",
        f"{NATIVE}/reactor.pxd",
        "GROUP = 32",
        "GROUP = 1",
        "receive, deliver and send connection by connection instead of in groups",
    ),
    Variant(
        "whole_batch",
        f"{NATIVE}/reactor.pxd",
        "GROUP = 32",
        "GROUP = 256",
        "one group for all ready connections",
    ),
    Variant(
        "one_poll",
        f"{NATIVE}/reactor.pyx",
        "while served < EVENTS and self.epoll >= 0:",
        "while served == 0 and self.epoll >= 0:",
        "return to the loop after each poll for ready connections",
    ),
    Variant(
        "exceptions",
        f"{NATIVE}/linux.pxd",
        "slots.tp_as_async.am_send = send",
        "pass",
        "return results of read and write with StopIteration, without am_send",
        ("64 B, 100 conn", "in flight"),
    ),
    Variant(
        "busy_poll",
        ECHO,
        'busy_poll = 0.0001 if "busy" in sys.argv else 0.0',
        "busy_poll = 0.0001",
        "poll for 100 microseconds before sleeping",
        ("64 B, 1 connection", "64 B, 10 connections"),
    ),
)


def build(names: str) -> Path:
    """Return a built copy of the source with these changes; reuse an identical one."""
    sources = [path for one in SOURCES for path in ROOT.glob(one)]
    files = {path.relative_to(ROOT): path.read_text() for path in sources}
    for name in names.split("+") if names != UNCHANGED else ():
        variant = next(one for one in VARIANTS if one.name == name)
        text = files[Path(variant.file)]
        if text.count(variant.old) != 1:
            sys.exit(f"{name}: {variant.file} must contain {variant.old!r} exactly once")
        files[Path(variant.file)] = text.replace(variant.old, variant.new)
    identity = hashlib.sha256(repr((sorted(files.items()), sys.version)).encode()).hexdigest()[:12]
    into = ROOT / "build/variants" / f"{names.replace(' ', '_')}-{identity}"
    if not (into / "built").exists():
        print(f"building {names}", flush=True)
        for path, text in files.items():
            (into / path).parent.mkdir(parents=True, exist_ok=True)
            (into / path).write_text(text)
        for name in PROJECT:
            shutil.copy(ROOT / name, into)
        subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=into,
            env={**os.environ, "SILLY_BUILD_NATIVE": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (into / "built").touch()
    return into


def main() -> None:
    listed = "\n".join(f"  {one.name:12} {one.why}" for one in VARIANTS)
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"variants:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a variant, or several as in a+b")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement; default: 0.5")
    parser.add_argument(
        "--job",
        action="append",
        help="part of a job's name (repeatable); default: jobs it affects",
    )
    parser.add_argument("--engine", choices=("native", "portable"), default="native")
    parser.add_argument("--build-only", action="store_true", help="do not measure")
    args = parser.parse_args()
    wanted = [part for names in args.names for part in names.split("+")]
    by_name = {one.name: one for one in VARIANTS}
    for name in wanted:
        if name not in by_name:
            parser.error(f"no variant {name!r}; the variants are {', '.join(by_name)}")
    if importlib.util.find_spec("Cython") is None:
        sys.exit("variants are built with Cython: pip install -e '.[bench]'")
    built = {names: build(names) for names in (UNCHANGED, *args.names)}
    if args.build_only:
        return
    print(f"network: {machine.own_network()}")
    parts = args.job or [part for one in wanted for part in by_name[one].jobs]
    jobs = [job for job in run.JOBS if any(part in job.name for part in parts)]
    kinds = [
        run.Kind(
            names,
            (run.PY, "-m", "silly", str(directory / ECHO)),
            environment=(("SILLY_ENGINE", args.engine), ("PYTHONPATH", str(directory / "src"))),
        )
        for names, directory in built.items()
    ]
    with tempfile.TemporaryDirectory() as temporary:
        run.compare(kinds, jobs, args.rounds, args.seconds, Path(temporary))


if __name__ == "__main__":
    main()
