"""Turn the results of run.py into RESULTS.md and its charts."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import machine

HERE = Path(__file__).parent
YARDSTICK = "C epoll"

Rounds = dict[str, list[dict[str, float]]]


def ratios(rounds: Rounds, name: str, figure: str) -> list[float]:
    """Return the *figure* of server *name* in each round, relative to the yardstick's.

    It is not a number if the server does not do this job.
    """
    if name not in rounds:
        return [math.nan]
    pairs = zip(rounds[name], rounds[YARDSTICK], strict=True)
    return [mine[figure] / its[figure] for mine, its in pairs]


def table(jobs: dict[str, Rounds], names: list[str], figure: str) -> list[str]:
    """Return a table of the median ratios and their spread, jobs by servers."""
    short = [name.replace("portable, ", "portable,<br>") for name in names]
    lines = [f"| job | {' | '.join(short)} |", "|---" * (len(names) + 1) + "|"]
    for job, rounds in jobs.items():
        cells = []
        for name in names:
            values = ratios(rounds, name, figure)
            if name not in rounds:
                cells.append("-")
                continue
            spread = (max(values) - min(values)) / 2
            cells.append(f"{statistics.median(values):.2f} ±{spread:.2f}")
        lines.append(f"| {job} | {' | '.join(cells)} |")
    return lines


def yardstick(jobs: dict[str, Rounds]) -> list[str]:
    """Return a table of the yardstick's own results, and of the load by others."""
    lines = [
        "| job | messages/s | CPU us/message | others: median | maximum | repeated |",
        "|---" * 6 + "|",
    ]
    for job, rounds in jobs.items():
        speed, cpu = (
            sorted(one[figure] for one in rounds[YARDSTICK]) for figure in ("per_second", "cpu_us")
        )
        varied = (speed[-1] - speed[0]) / 2 / statistics.median(speed)
        every = [one for measured in rounds.values() for one in measured]
        others = [one["others"] for one in every]
        lines.append(
            f"| {job} | {statistics.median(speed):,.0f} ±{varied:.0%} | "
            f"{statistics.median(cpu):.2f} | {statistics.median(others):.2f} | "
            f"{max(others):.2f} | {sum(one['repeated'] for one in every):.0f} of {len(every)} |"
        )
    return lines


def latencies(jobs: dict[str, Rounds], names: list[str]) -> list[str]:
    lines = [f"| job | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for job, rounds in jobs.items():
        cells = []
        for name in names:
            if name not in rounds:
                cells.append("-")
                continue
            cell = [
                f"{statistics.median(one[p] for one in rounds[name]):,.0f}" for p in ("p50", "p99")
            ]
            cells.append(" / ".join(cell))
        lines.append(f"| {job} | {' | '.join(cells)} |")
    return lines


def write(results: dict[str, Any]) -> None:
    """Write RESULTS.md beside this file, and the charts if matplotlib is installed."""
    jobs: dict[str, Rounds] = results["jobs"]
    names = [name for name in next(iter(jobs.values())) if name != YARDSTICK]
    about = ", ".join(f"{what} {value}" for what, value in results["machine"].items())
    pictures = draw(results, names)
    text = [
        "# Results",
        "",
        "Written by `make bench`. [README.md](README.md) explains the measurements.",
        "",
        f"Machine: {about}. Rounds: {results['rounds']}.",
        "",
        "## The C server itself, and other load on the machine",
        "",
        "Throughout, ± is half the difference between the best and the worst round. Others:",
        "processors kept busy by neither the server nor the load generator (0.5 is half of one).",
        f"Measurements with more than {machine.DISTURBED} were repeated; the quieter one counts.",
        "",
        *yardstick(jobs),
        "",
        "## Throughput, as a ratio to the C server",
        "",
        *table(jobs, names, "per_second"),
        "",
        "## The server's processor time per message, as a ratio to the C server",
        "",
        *table(jobs, names, "cpu_us"),
        "",
        "## Latency, median / 99th percentile, microseconds",
        "",
        "In a closed loop, latency follows from throughput: it is not an independent measure.",
        "",
        *latencies(jobs, [YARDSTICK, *names]),
        "",
        "## Memory of an idle connection that has echoed, KiB resident",
        "",
        f"| {' | '.join(results['memory'])} |",
        "|---" * len(results["memory"]) + "|",
        f"| {' | '.join(f'{kib:.2f}' for kib in results['memory'].values())} |",
        "",
        *(f"![{title}]({name})" for title, name in pictures),
    ]
    (HERE / "RESULTS.md").write_text("\n".join(text).rstrip() + "\n")


def draw(results: dict[str, Any], names: list[str]) -> list[tuple[str, str]]:
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "silly"
    from matplotlib import pyplot as plt

    jobs: dict[str, Rounds] = results["jobs"]
    colours: dict[str, tuple[float, ...]] = {
        name: plt.get_cmap("tab20")(at % 20) for at, name in enumerate(names)
    }
    for name in names:
        if name.startswith("silly"):
            continue
        red, green, blue, _ = colours[name]
        grey = 0.3 * red + 0.59 * green + 0.11 * blue
        colours[name] = tuple(0.4 * part + 0.6 * (0.55 + 0.4 * grey) for part in (red, green, blue))
    drawn = []

    def bars(figure: str, title: str, name: str, *, log: bool) -> None:
        fig, axes = plt.subplots(figsize=(13, 5.5), layout="constrained")
        width = 0.85 / len(names)
        for at, server in enumerate(names):
            heights = [
                statistics.median(ratios(rounds, server, figure)) for rounds in jobs.values()
            ]
            places = [job + (at - len(names) / 2) * width for job in range(len(jobs))]
            axes.bar(places, heights, width, label=server, color=colours[server], align="edge")
        axes.axhline(1, color="black", linewidth=1)
        axes.set_title(title, loc="left")
        if log:
            axes.set_yscale("log")
        labels = [job.replace(", ", "\n") for job in jobs]
        axes.set_xticks(range(len(jobs)), labels, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            ncols=7, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15)
        )
        fig.savefig(HERE / name, metadata={"Date": None})
        plt.close(fig)
        drawn.append((title, name))

    bars(
        "per_second",
        "Throughput (C epoll server = 1, higher is better)",
        "throughput.svg",
        log=False,
    )
    bars(
        "cpu_us",
        "Processor time per message (C epoll server = 1, lower is better)",
        "cpu.svg",
        log=True,
    )
    bars(
        "p99",
        "99th percentile latency (C epoll server = 1, lower is better)",
        "latency.svg",
        log=True,
    )
    memory = results["memory"]
    fig, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    axes.barh(list(memory)[::-1], list(memory.values())[::-1], color="#4c78a8")
    axes.set_title("KiB resident for each idle connection", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(HERE / "memory.svg", metadata={"Date": None})
    plt.close(fig)
    return [*drawn, ("KiB resident for each idle connection", "memory.svg")]
