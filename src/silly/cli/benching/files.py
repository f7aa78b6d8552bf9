"""The results of ``silly bench`` as files, and as text."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

from silly.bench import summary
from silly.cli.command import Failure
from silly.cli.output import Output
from silly.text import printable

__all__ = ["as_json", "beside", "opened", "publish"]


def publish(outputs: dict[str, Output], result: dict[str, Any]) -> None:
    """Write the files, then the summary, then the data that goes to standard output.

    If a file cannot be written, the rest still is. Raises Failure, OutputLost.
    """
    failures = []

    def write(*, standard: bool) -> None:
        for name, output in outputs.items():
            if output.is_standard == standard:
                try:
                    output.write(_WRITERS[name](result))
                except Failure as failure:
                    failures.append(str(failure))

    write(standard=False)
    for line in summary.lines(result):
        print(printable(line), file=beside(outputs))
    write(standard=True)
    if failures:
        raise Failure("; ".join(failures))


def beside(outputs: dict[str, Output]) -> TextIO:
    """Return where to print text: standard error if standard output carries data."""
    return sys.stderr if any(each.is_standard for each in outputs.values()) else sys.stdout


@contextlib.contextmanager
def opened(wanted: dict[str, str | None]) -> Iterator[dict[str, Output]]:
    """Open the *wanted* files; close them at the end, and remove new ones left unwritten."""
    outputs: dict[str, Output] = {}
    try:
        for name, path in wanted.items():
            if path is None:
                continue
            output = Output(path, name)
            same = next((other for other in outputs if output.is_same(outputs[other])), None)
            outputs[name] = output
            if same is not None:
                raise Failure(
                    f"only one of --json, --csv and --html can be written to "
                    f"{'standard output' if output.is_standard else repr(path)}"
                )
        yield outputs
    finally:
        for output in outputs.values():
            output.discard()


def as_json(result: dict[str, Any]) -> str:
    """Return the published *result*."""
    return json.dumps(result) + "\n"


def _as_csv(result: dict[str, Any]) -> str:
    file = io.StringIO()
    names = [name for name in _COLUMNS if name != "histogram"]
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(result["intervals"])
    return file.getvalue()


_COLUMNS: Final = (
    "phase", "start", "length", "requests", "rate", "errors", "unanswered", "late",
    "p50", "p90", "p99", "p99.9", "max",
)  # fmt: skip


def _as_html(result: dict[str, Any]) -> str:
    from silly.bench import report  # noqa: PLC0415 - rarely needed

    return report.html(result)


_WRITERS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "--json": as_json,
    "--csv": _as_csv,
    "--html": _as_html,
}
