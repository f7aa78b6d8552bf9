"""Builds the native engine if possible; everything else is in pyproject.toml.

silly works without it, on the portable engine. So if it cannot be built (not Linux, no
compiler, no Python headers), a message says so and the build succeeds. The compiler's
error is kept in the package, for ``silly --version``. ``SILLY_BUILD_NATIVE=0`` skips the
native engine; ``=1`` makes a failure to build it an error.
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

PACKAGE = Path("src/silly")
HEADERS = sorted(PACKAGE.rglob("*.pxd"))
# Compiled a second time, as modules of the package ``native`` beside them, which has the types.
SHARED = [
    source
    for header in HEADERS
    if header.parent.name == "native"
    and (source := header.parent.parent / f"{header.stem}.py").exists()
]
NATIVE = sorted(PACKAGE.rglob("*.pyx"))
COMPILING_NOTHING = ("sdist", "egg_info", "dist_info")  # what pip and build run first
BUILD_NATIVE = os.environ.get("SILLY_BUILD_NATIVE", "")


def extensions() -> list[Extension]:
    """Return the modules of the native engine, or none if it cannot be built."""
    if BUILD_NATIVE == "0" or not (sys.platform == "linux" or BUILD_NATIVE):
        return []
    if sys.argv[1:2] and sys.argv[1] in COMPILING_NOTHING:
        return []
    try:
        from Cython.Build import cythonize  # noqa: PLC0415 - it may not be installed
    except ImportError as error:
        skip_native(error)
        return []
    # Without debugging information (-g0), compiling takes three quarters of the time.
    options = ["-O2", "-g0", "-fno-semantic-interposition"]
    options += os.environ.get("SILLY_CFLAGS", "").split()
    compiled = [(source, source) for source in NATIVE]
    compiled += [(source, source.parent / "native" / source.name) for source in SHARED]
    modules = [
        Extension(
            ".".join(module.with_suffix("").parts[1:]),
            [str(source)],
            depends=[str(header) for header in HEADERS],
            extra_compile_args=options,
            extra_link_args=os.environ.get("SILLY_LDFLAGS", "").split(),
        )
        for source, module in compiled
    ]
    return cythonize(  # type: ignore[no-any-return]
        modules,
        include_path=["src"],
        force=is_any_header_newer(),
        nthreads=os.cpu_count() or 1,
        build_dir="build",
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "annotation_typing": False,  # types are in .pxd files, also of the shared sources
            "auto_pickle": False,
            "binding": False,  # otherwise, unbound methods do not check the type of self
        },
    )


def is_any_header_newer() -> bool:
    """Return whether the C code of a shared source is older than a ``.pxd`` file.

    Cython looks for the ``.pxd`` file of a source beside it, and so does not notice.
    """
    generated = [Path("build", source.with_suffix(".c")) for source in SHARED]
    made = [path.stat().st_mtime for path in generated if path.exists()]
    return bool(made) and min(made) < max(path.stat().st_mtime for path in HEADERS)


def skip_native(error: BaseException) -> None:
    """Report why the native engine was not built; raise if it is required."""
    if BUILD_NATIVE == "1":
        raise error
    print(
        f"silly: the native engine was not built, the portable one will be used: {error}",
        file=sys.stderr,
    )


class CapturedStderr:
    """Captures standard error during its ``with`` block, and passes it on afterwards."""

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


def cause(error: Exception, printed: str) -> str:
    """Return, in one line, why the build failed: the first error that the compiler printed."""
    lines = [line.strip() for line in printed.splitlines()]
    if errors := [line for line in lines if "error:" in line or "cannot find" in line]:
        return errors[0]
    failed = error.args[0] if error.args else error
    if isinstance(failed, subprocess.CalledProcessError):  # its text is the whole command
        return f"{failed.cmd[0]} failed with exit code {failed.returncode}"
    return " ".join(f"{error}".split()) or type(error).__name__


class BuildAllOrNone(build_ext):
    """Builds all of the native engine, or nothing, with a message."""

    def finalize_options(self) -> None:
        """Compile the modules in parallel, unless the command line says otherwise."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        """Build; if that fails, remove what was built, and record why."""
        inplace, stderr = self.inplace, CapturedStderr()
        try:
            with stderr:
                super().run()
        except Exception as error:  # noqa: BLE001 - the portable engine works anyway
            skip_native(error)
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions.clear()
            self.inplace = inplace  # which setuptools has changed
            self.record.parent.mkdir(parents=True, exist_ok=True)
            self.record.write_text(cause(error, stderr.text) + "\n", encoding="utf-8")
        else:
            self.record.unlink(missing_ok=True)

    @property
    def record(self) -> Path:
        """The file in the package that says why there is no native engine."""
        return Path(self.get_ext_fullpath("silly._engine.native.x")).with_name("build_error.txt")

    def copy_extensions_to_source(self) -> None:
        """Copy the modules next to their sources (for an editable installation)."""
        if self.extensions:
            super().copy_extensions_to_source()


if __name__ == "__main__":  # not in a process that Cython starts
    options: dict[str, Any] = {"cmdclass": {"build_ext": BuildAllOrNone}}
    setup(ext_modules=extensions(), **options)
