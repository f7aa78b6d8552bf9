"""The rules for modules: imports, exports, documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import silly
from silly._values.extras import EXTRAS
from silly.crypto.utils import randomkey

pytestmark = pytest.mark.no_engine

ROOT = Path(silly.__file__).parent
PROJECT = ROOT.parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "silly.")
    if module.name != "silly.__main__"
)

# From the lowest layer up; a module may import from its own layer and those below it.
LAYERS = (
    (
        *("silly.errors", "silly.text", "silly.stdio", "silly.systemd", "silly.log"),
        *("silly._values", "silly._logs", "silly._loop", "silly._terminal"),
    ),
    ("silly._engine", "silly.task", "silly.crypto"),
    ("silly.net", "silly.time"),
    ("silly.testing", "silly.runtime", "silly.streams", "silly.pubsub"),
    ("silly.workers",),
    ("silly",),
    ("silly.metrics", "silly.health", "silly.otel"),
    ("silly.admin",),
    ("silly.bench",),
    ("silly.cli", "silly.__main__"),
)


def layer(name: str) -> int:
    for number, modules in enumerate(LAYERS):
        if any(
            name == each or (each != "silly" and name.startswith(each + ".")) for each in modules
        ):
            return number
    raise AssertionError(f"{name} is in no layer")


def source_of(name: str) -> Path:
    """The file that was written: of a compiled module its Cython or shared Python source."""
    path = Path(inspect.getfile(importlib.import_module(name)))
    if path.suffix == ".so":
        stem = path.name.partition(".")[0]
        path = path.with_name(f"{stem}.pyx")
        if not path.exists():
            path = path.parent.with_name(f"{stem}.py")
    return path


def imported(name: str) -> set[str]:
    """The modules of the package that *name* imports, also those only for type checking."""
    path = source_of(name)
    text = path.read_text()
    if path.suffix == ".pyx":
        lines = re.findall(
            r"^(?:from \S+ )?c?import (?:\w+(?:, \w+)*|\([^)]*\))", text, re.MULTILINE
        )
        text = "\n".join(line.replace("cimport", "import") for line in lines)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                types = path.parent / "native" / f"{path.stem}.pxd"
                assert types.exists(), f"{name}: a relative import, but it is not compiled twice"
                module = f"{package}.{module}"
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if full in MODULES else module)
    return {each for each in names if each == "silly" or each.startswith("silly.")}


@pytest.mark.parametrize("name", ["silly", *MODULES])
def test_imports_point_down(name: str) -> None:
    for target in imported(name):
        assert layer(target) <= layer(name), f"{name} imports {target}, which is above it"


def test_no_imports_go_in_circles() -> None:
    """Not even those that are only for type checking.

    A module imports a package only if it imports a name from its ``__init__``, not if it
    imports another module of it.
    """
    left = {name: imported(name) - {name} for name in ["silly", *MODULES]}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    assert not left, {name: sorted(targets & left.keys()) for name, targets in left.items()}


def test_a_program_without_workers_imports_nothing_of_them(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("import sys\nprint([name for name in sys.modules if 'workers' in name])\n")
    command = [sys.executable, "-B", "-m", "silly", str(path)]  # -B: nothing is imported yet
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"[]\n"


def test_names_that_are_imported_late_are_there() -> None:
    assert silly.run_workers is silly.workers.run_workers
    with pytest.raises(AttributeError, match="module 'silly' has no attribute 'nonsense'"):
        silly.nonsense  # noqa: B018


def test_private_things_have_a_room() -> None:
    """At the package's root there are public modules and rooms only."""
    assert not [path.name for path in ROOT.glob("_[!_]*.py")]


def test_architecture_lists_the_modules_that_there_are() -> None:
    rows = re.findall(
        r"^\| (`silly/.*?) \|", (PROJECT / "ARCHITECTURE.md").read_text(), re.MULTILINE
    )
    listed = [path for row in rows for path in re.findall("`(.*?)`", row)]
    for path in listed:
        assert (PROJECT / "src" / path).exists(), f"ARCHITECTURE.md lists {path}"
    directories = tuple(path for path in listed if path.endswith("/"))
    for source in (PROJECT / "src").rglob("*.py*"):
        path = source.relative_to(PROJECT / "src").as_posix()
        if source.suffix in {".py", ".pyx"} and not source.name.startswith("__"):
            assert path in listed or path.startswith(directories), f"ARCHITECTURE.md lacks {path}"


def test_architecture_has_the_layers() -> None:
    page = (PROJECT / "ARCHITECTURE.md").read_text()
    section = page.partition("## Imports")[2].partition("## ")[0]
    rows = re.findall(r"^\d+\. (.*)$", section, re.MULTILINE)
    stated = [
        {"silly" if name == "silly" else f"silly.{name}" for name in re.findall(r"`(\w+)`", row)}
        for row in rows[:-1]  # the last is "all others"
    ]
    assert stated == [set(rooms) for rooms in LAYERS[:0:-1]]


def test_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    stated = {
        extra: tuple(re.split(r"[<>=;]", each)[0] for each in needed)
        for extra, needed in project["optional-dependencies"].items()
    }
    assert {extra: stated[extra] for extra in EXTRAS} == EXTRAS


# The modules that import third-party libraries, which come with extras; no others may.
NEEDS = {
    "cli/command.py": {"click"},
    "cli/bench.py": {"click", "rich"},
    "cli/benching/planning.py": {"click"},
    "cli/connect.py": {"click"},
    "cli/connecting/prompt.py": {"prompt_toolkit"},
    "cli/echo.py": {"click", "rich"},
    "cli/echoing/certificate.py": {"trustme"},
    "cli/echoing/view.py": {"rich"},
    "cli/prompting/prompt.py": {"prompt_toolkit"},
    "cli/reload.py": {"watchfiles"},
    "cli/repl.py": {"click"},
    "cli/env_file.py": {"dotenv"},
    "cli/log_config.py": {"yaml"},
    "cli/top.py": {"click", "rich"},
    "_terminal/live_view.py": {"rich"},
    "cli/topping/view.py": {"rich"},
    "cli/run.py": {"uvloop"},
    "bench/view.py": {"rich"},
    "net/http/forms.py": {"python_multipart"},
    "net/http/client_session.py": {"httptools"},
    "net/http/session.py": {"httptools"},
    "metrics/prometheus.py": {"prometheus_client"},
    "otel.py": {"opentelemetry"},
    "runtime/title.py": {"setproctitle"},
    "pubsub/nats.py": {"nats"},
    "pubsub/redis.py": {"redis"},
}


def test_the_core_needs_nothing_but_the_standard_library() -> None:
    for path in ROOT.rglob("*.py"):
        needed = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                needed.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
        needed -= {"silly", *sys.stdlib_module_names}
        assert needed == NEEDS.get(str(path.relative_to(ROOT)), set()), path


@pytest.mark.parametrize("name", ["silly", *MODULES])
def test_exports_exist_and_public_things_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    if inspect.getfile(module) != str(source_of(name)) and source_of(name).suffix == ".py":
        return  # compiled from a module that is checked itself; its constants are C's
    for export in getattr(module, "__all__", ()):
        thing = getattr(module, export)
        if "._" in name or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        if not thing.__module__.startswith("silly"):
            continue  # re-exported from the standard library
        assert inspect.getdoc(thing), f"{name}.{export} has no docstring"
        if inspect.isclass(thing):
            for attribute, member in inspect.getmembers(thing):
                if (
                    isinstance(member, property)
                    and not attribute.startswith("_")
                    and (member.fget and re.match(r"silly\.(?!_)", member.fget.__module__))
                ):
                    assert inspect.getdoc(member), f"{name}.{export}.{attribute}"


def test_errors_derive_from_a_fitting_built_in() -> None:
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
