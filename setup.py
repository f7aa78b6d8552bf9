"""Builds the native engine where that is possible; everything else is in pyproject.toml.

An installation without it works: the portable engine serves. So what keeps it
from being built (another system, no compiler, no Python headers) is said once,
and does not fail the build. What the compiler said is kept in the package, for
``silly --version``. ``SILLY_BUILD_NATIVE=0`` leaves it out, ``=1`` makes
its absence an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/silly/_engine/native")
WANTED = os.environ.get("SILLY_BUILD_NATIVE", "")


def extensions() -> list[Extension]:
    """Return the modules of the native engine, or none where it cannot be built."""
    if WANTED == "0" or not (sys.platform == "linux" or WANTED):
        return []
    try:
        from Cython.Build import cythonize  # noqa: PLC0415 - it may not be there
    except ImportError as error:
        give_up(error)
        return []
    options = ["-O2", "-fno-semantic-interposition", *os.environ.get("SILLY_CFLAGS", "").split()]
    modules = [
        Extension(
            f"silly._engine.native.{source.stem}",
            [str(source)],
            extra_compile_args=options,
            extra_link_args=os.environ.get("SILLY_LDFLAGS", "").split(),
        )
        for source in sorted(NATIVE.glob("*.pyx"))
    ]
    return cythonize(  # type: ignore[no-any-return]
        modules,
        include_path=["src"],
        build_dir="build",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "auto_pickle": False,
            "linetrace": "CYTHON_TRACE" in os.environ.get("SILLY_CFLAGS", ""),  # for coverage
            "binding": False,  # else a method of the class does not check what it is called with
        },
    )


def give_up(error: BaseException) -> None:
    """Say that the native engine is left out, and why."""
    if WANTED == "1":
        raise error
    print(
        f"silly: the native engine was not built, the portable one will serve: {error}",
        file=sys.stderr,
    )


class Heard:
    """What is written to standard error in its ``with`` block; it is passed on afterwards."""

    text = ""

    def __enter__(self) -> Self:
        sys.stderr.flush()
        self._file = tempfile.TemporaryFile()
        self._before = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()
        os.dup2(self._before, 2)
        os.close(self._before)
        self._file.seek(0)
        self.text = self._file.read().decode(errors="replace")
        self._file.close()
        sys.stderr.write(self.text)


def cause(error: Exception, heard: str) -> str:
    """Return in one line why the build failed: the first error that the compiler printed."""
    lines = [line.strip() for line in heard.splitlines()]
    if errors := [line for line in lines if "error:" in line or "cannot find" in line]:
        return errors[0]
    failed = error.args[0] if error.args else error
    if isinstance(failed, subprocess.CalledProcessError):  # it says the whole command
        return f"{failed.cmd[0]} failed with exit code {failed.returncode}"
    return " ".join(f"{error}".split()) or type(error).__name__


class BuildAllOrNone(build_ext):
    """Builds all of the native engine, or, saying so, nothing."""

    def finalize_options(self) -> None:
        """Compile the modules side by side, unless asked otherwise."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        """Build, or remove what was built, and keep why."""
        inplace, heard = self.inplace, Heard()
        try:
            with heard:
                super().run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other engine works
            give_up(error)
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions.clear()
            self.inplace = inplace  # setuptools leaves it changed
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.record.write_text(cause(error, heard.text) + "\n", encoding="utf-8")
        else:
            self.record.unlink(missing_ok=True)

    @property
    def record(self) -> Path:
        """The file in the package that says why there is no native engine."""
        return Path(self.get_ext_fullpath("silly._engine.native.x")).with_name("build_error.txt")

    def copy_extensions_to_source(self) -> None:
        """Put what was built beside its sources (for an editable installation)."""
        if self.extensions:
            super().copy_extensions_to_source()


options: dict[str, Any] = {"cmdclass": {"build_ext": BuildAllOrNone}}
setup(ext_modules=extensions(), **options)
