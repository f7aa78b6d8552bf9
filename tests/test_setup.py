"""setup.py: if the native engine cannot be built, the package works without it and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.no_engine,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the native engine is Linux's"),
]

ROOT = Path(__file__).parent.parent
WORKS = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done
"""
FAILS = """#!/bin/sh
echo "reactor.c: In function:" >&2
echo "reactor.c:1:10: fatal error: Python.h: No such file or directory" >&2
echo "compilation terminated." >&2
exit 1
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project whose native engine is one line, for a fake compiler."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("*.so", "*.pyx", "*.pxd", "__pycache__", "build_error.txt")
    shutil.copytree(ROOT / "src/silly", tmp_path / "src/silly", ignore=ignored)
    (tmp_path / "src/silly/_engine/native/reactor.pyx").write_text("value = 1\n")
    return tmp_path


def build(copy: Path, compiler: str, *options: str) -> str:
    """Build with *compiler*, a command or a script; return what is printed."""
    if compiler.startswith("#!"):
        path = copy / "compiler"
        path.write_text(compiler)
        path.chmod(0o755)
        compiler = str(path)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *options], cwd=copy, text=True, timeout=100,
        env={**os.environ, "CC": compiler}, stderr=subprocess.PIPE, check=True,
    )  # fmt: skip
    return done.stderr


def version(package: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "SILLY_ENGINE"}
    return subprocess.run(
        [sys.executable, "-m", "silly", "--version"], cwd=package, text=True, timeout=50,
        env={**env, "PYTHONPATH": str(package)}, stdout=subprocess.PIPE, check=True,
    ).stdout  # fmt: skip


def test_version_quotes_the_compiler(copy: Path) -> None:
    printed = build(copy, FAILS, "build_ext", "--inplace")
    assert "compilation terminated." in printed
    assert "silly: the native engine was not built, the portable one will be used: " in printed
    first, second = version(copy / "src").splitlines()
    assert "portable engine" in first
    assert (
        "it was not built when silly was installed (reactor.c:1:10: fatal error: Python.h: "
        "No such file or directory): building needs a C compiler"
    ) in second
    record = copy / "src/silly/_engine/native/build_error.txt"
    assert record.exists()
    build(copy, WORKS, "build_ext", "--inplace")
    assert not record.exists()
    assert list(record.parent.glob("*.so"))


@pytest.mark.parametrize(
    ("compiler", "why"), [("false", "failed with exit code 1"), ("/missing", "No such file")]
)
def test_a_built_package_contains_the_reason(copy: Path, compiler: str, why: str) -> None:
    build(copy, compiler, "build", "--build-lib", "built")
    assert why in version(copy / "built")
    assert not (copy / "src/silly/_engine/native/build_error.txt").exists()
