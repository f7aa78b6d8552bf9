"""The rules of the house: who may import whom, what is exported, what is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import silly
from silly._extras import EXTRAS
from silly.crypto.utils import randomkey

pytestmark = pytest.mark.no_engine

ROOT = Path(silly.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "silly.")
    if module.name != "silly.__main__"
)

# From the ground up; a module may import from its own floor and those below it.
FLOORS = (
    (
        "silly.errors",
        "silly._arguments",
        "silly._awaitables",
        "silly._live",
        "silly._repeats",
        "silly._extras",
        "silly._signals",
        "silly._tracebacks",
        "silly._units",
        "silly.log",
        "silly._logger",
        "silly.stdio",
        "silly.systemd",
        "silly.text",
        "silly._channel",
    ),
    ("silly._engine", "silly.task", "silly.crypto", "silly._control"),
    ("silly.net", "silly.time"),
    ("silly.testing", "silly.runtime", "silly._blocking", "silly._inspection"),
    ("silly.workers",),
    ("silly",),
    ("silly.metrics", "silly.otel"),
    ("silly.admin",),
    ("silly.bench",),
    ("silly.cli", "silly.__main__"),
)


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if any(name == room or (room != "silly" and name.startswith(room + ".")) for room in rooms):
            return number
    raise AssertionError(f"{name} is on no floor")


def imported(path: Path) -> set[str]:
    if path.suffix == ".so":  # native: its source, as far as it imports Python's modules
        path = path.with_name(path.name.partition(".")[0] + ".pyx")
        imports = re.findall(r"^(?:from \S+ )?import .*", path.read_text(), re.MULTILINE)
        tree = ast.parse("\n".join(imports))
    else:
        tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if full in MODULES else module)
    return {name for name in names if name == "silly" or name.startswith("silly.")}


@pytest.mark.parametrize("name", ["silly", *MODULES])
def test_imports_point_down(name: str) -> None:
    path = Path(inspect.getfile(importlib.import_module(name)))
    for target in imported(path):
        assert floor(target) <= floor(name), f"{name} imports {target}, which is above it"


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["project"]
    stated = {
        extra: tuple(re.split(r"[<>=;]", each)[0] for each in needed)
        for extra, needed in project["optional-dependencies"].items()
    }
    assert {extra: stated[extra] for extra in EXTRAS} == EXTRAS


# Who needs a library, behind an extra; nobody else may.
NEEDS = {
    "cli/command.py": {"click"},
    "cli/bench.py": {"click", "rich"},
    "cli/connect.py": {"click"},
    "cli/connecting/prompt.py": {"prompt_toolkit"},
    "cli/echo.py": {"click", "rich"},
    "cli/echoing/view.py": {"rich"},
    "cli/reload.py": {"watchfiles"},
    "cli/run.py": {"uvloop"},
    "bench/view.py": {"rich"},
    "metrics.py": {"prometheus_client"},
    "otel.py": {"opentelemetry"},
}


def test_the_core_needs_nothing_but_the_standard_library() -> None:
    for path in ROOT.rglob("*.py"):
        needed = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                needed.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
        needed -= {"silly", *sys.stdlib_module_names}
        assert needed == NEEDS.get(str(path.relative_to(ROOT)), set()), path


@pytest.mark.parametrize("name", ["silly", *MODULES])
def test_exports_exist_and_public_things_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for export in getattr(module, "__all__", ()):
        thing = getattr(module, export)
        if "._" in name or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert inspect.getdoc(thing), f"{name}.{export} has no docstring"
        if inspect.isclass(thing):
            for attribute, member in inspect.getmembers(thing):
                if (
                    isinstance(member, property)
                    and not attribute.startswith("_")
                    and (member.fget and member.fget.__module__.startswith("silly"))
                ):
                    assert inspect.getdoc(member), f"{name}.{export}.{attribute}"


def test_errors_derive_from_the_built_in_that_fits() -> None:
    pairs = {
        silly.EndOfStream: EOFError,
        silly.ConnectionClosed: ConnectionError,
        silly.LimitExceeded: ValueError,
        silly.WriteQueueFull: BufferError,
        silly.ConcurrentRead: RuntimeError,
    }
    for ours, builtin in pairs.items():
        assert issubclass(ours, silly.SillyError)
        assert issubclass(ours, builtin)
        error = ours("what happened", address="127.0.0.1:1")
        again = pickle.loads(pickle.dumps(error))
        assert str(again) == str(error) == "127.0.0.1:1: what happened"
        assert again.address == "127.0.0.1:1"


def test_randomkey() -> None:
    assert randomkey(0) == b""
    assert len(randomkey(1000)) == 1000
    assert randomkey(1000).isalnum()
    assert randomkey(20) != randomkey(20)
    with pytest.raises(ValueError, match="n must be 0 or more"):
        randomkey(-1)
    with pytest.raises(TypeError, match="n must be an int"):
        randomkey(1.5)  # type: ignore[arg-type]
