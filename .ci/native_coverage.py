"""List the lines and branches of Cython code that were not reached: native_coverage.py DIRECTORY.

The directory was compiled with gcc's `--coverage`, and programs have run in it. gcov counts lines
of the generated C; Cython's comments there say which line of the source each stands for. A branch
is a condition of the source that was never true, or never false. Checks for errors that Cython
adds itself are not counted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

POSITION = re.compile(r'\s*/\* "(?:src/)?(silly/[^"]+)":(\d+)$')
CONDITION = re.compile(r"\s*if \((unlikely\()?!?__pyx_t_\d+\)?\) (\{|break;)$")
DEFINITION = re.compile(r"\s*(@|(async )?def\b|cpdef\b|(cdef )?class\b|cdef\b(?![^=(]*=))")
CONFIGURATION = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
EXCLUDED = re.compile(
    "|".join(["# pragma: no cover", *CONFIGURATION["tool"]["coverage"]["report"]["exclude_also"]])
)


@dataclass
class Source:
    """What was reached of one source file: line numbers to counts."""

    name: str
    lines: dict[int, int] = field(default_factory=dict)
    branches: dict[int, list[int]] = field(default_factory=dict)

    def missed_lines(self) -> list[int]:
        return sorted(line for line, count in self.lines.items() if not count)

    def missed_branches(self) -> list[int]:
        """Return the lines that were reached, with a branch that was not."""
        return sorted(
            line
            for line, counts in self.branches.items()
            if not all(counts) and self.lines.get(line)
        )


def positions(generated: list[str]) -> Iterator[tuple[int, str, int]]:
    """Yield each number of a line of C with the source and the line that it stands for."""
    name, line, in_comment = "", 0, False
    for number, text in enumerate(generated, 1):
        if match := POSITION.match(text):
            name, line, in_comment = match[1], int(match[2]), True
        elif in_comment:
            in_comment = "*/" not in text
        elif text.lstrip().startswith("/* function exit code") or text.startswith("}"):
            name = ""
        elif name:
            yield number, name, line


def is_condition(generated: list[str], number: int) -> bool:
    """Return whether this line of C decides what the source decides: not a part of and, or."""
    match = CONDITION.match(generated[number - 1])
    if not match:
        return False
    following = next(text for text in generated[number:] if text.strip()).lstrip()
    return following.startswith("/*") if match[1] else not following.startswith("} else {")


def countable(path: Path) -> set[int]:
    """Return the numbers of the lines of a source that are statements, and not excluded."""
    numbers, excluded_from = set(), -1
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        indent = len(text) - len(text.lstrip())
        if text.strip() and indent <= excluded_from:
            excluded_from = -1
        if EXCLUDED.search(text) and excluded_from < 0:
            excluded_from = indent
        if excluded_from < 0 and not DEFINITION.match(text):
            numbers.add(number)
    return numbers


def read(directory: Path) -> dict[str, Source]:
    """Return what was reached in the sources whose objects are below *directory*."""
    sources: dict[str, Source] = {}
    for notes in sorted(directory.rglob("*.gcno")):
        command = ["gcov", "--branch-probabilities", "--json-format", "--stdout", str(notes)]
        report = subprocess.run(command, capture_output=True, check=True, cwd=directory).stdout
        for file in json.loads(report)["files"]:
            if Path(file["file"]).suffix != ".c":
                continue
            path = directory / file["file"]
            generated = path.read_text(encoding="utf-8").splitlines()
            where = {number: (name, line) for number, name, line in positions(generated)}
            for counted in file["lines"]:
                number = counted["line_number"]
                if number not in where:
                    continue
                name, line = where[number]
                source = sources.setdefault(name, Source(name))
                source.lines[line] = source.lines.get(line, 0) + counted["count"]
                if counted["branches"] and is_condition(generated, number):
                    counts = [branch["count"] for branch in counted["branches"]]
                    before = source.branches.get(line, [0] * len(counts))
                    # A condition that was compiled twice (in `finally`) is one.
                    source.branches[line] = [a + b for a, b in zip(before, counts, strict=False)]
    sources = {name: source for name, source in sources.items() if not name.endswith(".pxd")}
    for source in sources.values():
        kept = countable(directory / "src" / source.name)
        source.lines = {line: count for line, count in source.lines.items() if line in kept}
        source.branches = {line: counts for line, counts in source.branches.items() if line in kept}
    return sources


def spans(numbers: list[int], all_numbers: list[int]) -> str:
    """Return numbers as text, those that follow each other in *all_numbers* as a span."""
    index = {number: place for place, number in enumerate(all_numbers)}
    groups: list[list[int]] = []
    for number in numbers:
        if groups and index[number] == index[groups[-1][-1]] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}-{g[-1]}" if g[1:] else f"{g[0]}" for g in groups)


def main(directory: str) -> None:
    """Print the report."""
    lines = missed = branches = missed_branches = 0
    print(f"{'Source':<48} {'Lines':>6} {'Missed':>6} {'Branches':>8} {'Missed':>6}  Not reached")
    for source in sorted(read(Path(directory).resolve()).values(), key=lambda source: source.name):
        gone, partial = source.missed_lines(), source.missed_branches()
        count = sum(map(len, source.branches.values()))
        unreached = sum(not taken for counts in source.branches.values() for taken in counts)
        texts = [spans(gone, sorted(source.lines)), *[f"{line}?" for line in partial]]
        print(
            f"{source.name:<48} {len(source.lines):>6} {len(gone):>6} {count:>8} {unreached:>6}"
            f"  {', '.join(filter(None, texts))}"
        )
        lines, missed = lines + len(source.lines), missed + len(gone)
        branches, missed_branches = branches + count, missed_branches + unreached
    print(f"{'Total':<48} {lines:>6} {missed:>6} {branches:>8} {missed_branches:>6}")
    if lines and branches:
        print(
            f"{1 - missed / lines:.1%} of lines, {1 - missed_branches / branches:.1%} of branches"
        )


main(sys.argv[1])
