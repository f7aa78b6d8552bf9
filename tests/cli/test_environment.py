"""``--env-file`` and ``--log-config``: what a program finds when it starts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from silly import cli
from silly._values.extras import install_command
from silly.cli import reload
from silly.cli.env_file import load_env_file
from silly.cli.reload import Watched
from silly.cli.run import _uvloop

pytestmark = pytest.mark.no_engine

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "migrate-from-uvicorn.md"

# -------------------------------------------------------------------------- --env-file


@pytest.fixture(autouse=True)
def environ() -> Iterator[None]:
    with mock.patch.dict(os.environ, {"TAKEN": "before"}):
        yield


@pytest.mark.parametrize("form", [("--env-file", "{}"), ("--env-file={}",), ()])
def test_variables_that_are_not_set_come_from_the_file(
    tmp_path: Path, form: tuple[str, ...]
) -> None:
    pytest.importorskip("dotenv")
    path = tmp_path / "shop.env"
    path.write_text("# of the shop\nTAKEN=no\nexport NAME='a b'\nBOTH=\"${NAME} ${TAKEN}\"\n")
    if not form:
        os.environ["SILLY_ENV_FILE"] = str(path)
    load_env_file(["main:app", *(each.format(path) for each in form), "--port", "1"])
    found = [os.environ[name] for name in ("TAKEN", "NAME", "BOTH")]
    assert found == ["before", "a b", "a b before"]


def test_without_the_option_nothing_is_set() -> None:
    before = dict(os.environ)
    load_env_file(["main:app", "--port", "1"])
    assert os.environ == before


def test_an_unusable_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dotenv")
    path = tmp_path / "x"
    with pytest.raises(ValueError, match=r"--env-file: cannot read '.*x': No such file"):
        load_env_file(["--env-file", str(path)])
    path.write_bytes(b"\xff=1\n")
    with pytest.raises(ValueError, match=r"--env-file: '.*x' is not UTF-8 text"):
        load_env_file(["--env-file", str(path)])
    monkeypatch.setitem(sys.modules, "dotenv", None)
    with pytest.raises(ValueError, match=r"--env-file needs python-dotenv: .*pip install python-d"):
        load_env_file(["--env-file", str(path)])


# ------------------------------------------------------------------------ --log-config

INI = """
[loggers]
keys=root
[handlers]
keys=out
[formatters]
keys=
[handler_out]
class=StreamHandler
args=(sys.stdout,)
[logger_root]
level=INFO
handlers=out
"""
SETTINGS = {
    "version": 1,
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "root": {"level": "INFO", "handlers": ["out"]},
}
UNKNOWN = (
    "Unable to configure handler 'out': Cannot resolve 'nothing.Here': No module named 'nothing'"
)
CONFIGURE = """
import logging, sys
from silly.cli.log_config import configure_logging

existing = logging.getLogger("existing")
for path in sys.argv[1:]:
    try:
        configure_logging(path)
    except ValueError as error:
        print(error)
    else:
        existing.info("from %s", path)
"""


def configured(folder: Path, *names: str) -> list[str]:
    """What is printed when each file is used in turn."""
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURE, *names],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_logging_is_as_the_file_says(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "log.ini").write_text(INI)
    (tmp_path / "log.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "log.yaml").write_text(json.dumps(SETTINGS))  # which is YAML, too
    (example,) = re.findall(r"```yaml log.yaml\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    (tmp_path / "howto.yaml").write_text(example)
    (tmp_path / "off.json").write_text(json.dumps({**SETTINGS, "disable_existing_loggers": True}))
    (tmp_path / "bad.json").write_text("[1")
    (tmp_path / "list.yml").write_text("- 1")
    unknown = {**SETTINGS, "handlers": {"out": {"class": "nothing.Here"}}}
    (tmp_path / "unknown.json").write_text(json.dumps(unknown))
    (tmp_path / "unknown.ini").write_text(INI.replace("class=", "class=nothing."))
    names = (
        "bad.json", "list.yml", "unknown.json", "unknown.ini", "none.ini", "log.ini", "log.json",
        "log.yaml",
    )  # fmt: skip
    assert configured(tmp_path, *names, "howto.yaml", "off.json") == [
        "--log-config: 'bad.json': Expecting ',' delimiter: line 1 column 3 (char 2)",
        "--log-config: 'list.yml': expected a mapping",
        f"--log-config: 'unknown.json': {UNKNOWN}",
        "--log-config: 'unknown.ini': No module named 'nothing'",
        "--log-config: cannot read 'none.ini': No such file or directory",
        "from log.ini",
        "from log.json",
        "from log.yaml",
    ]


def test_yaml_is_an_extra(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError(name='yaml')\n")
    (tmp_path / "log.yaml").write_text("")
    (line,) = configured(tmp_path, "log.yaml")
    assert line.startswith("--log-config with YAML needs PyYAML: ")
    assert line.endswith(" -m pip install PyYAML")


# ---------------------------------------------------------------------------- --reload


def test_which_files_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchfiles = pytest.importorskip("watchfiles")
    for name in ("pages", "old", "older"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    directories = [tmp_path]
    watched = Watched(directories, ["*.html", ".env", "pages"], ["test_*", "old"])
    assert watched.directories == [tmp_path, Path("pages")]
    names = [
        *("main.py", "a/b.py", "a/b.html", ".env", "older/a.py"),
        *("a.css", "a/test_a.py", "test_a.html", "old/a.py", "old/b/a.py", ".git/a.py", "a.html~"),
    ]
    change = watchfiles.Change.modified
    assert [each for each in names if watched(change, str(tmp_path / each))] == names[:5]


async def test_a_directory_that_cannot_be_watched_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Supervised:
        async def run(self) -> int:
            while not caplog.records:
                await asyncio.sleep(0)
            return 7

    async def fail(*_: object) -> None:
        raise OSError("OS file watch limit reached.")

    monkeypatch.setattr(reload, "_watch_for_ever", fail)
    watched: Any = None
    assert await reload.run_reloading(Supervised(), watched) == 7  # type: ignore[arg-type]
    assert caplog.messages == ["cannot watch for changes: OS file watch limit reached."]


def test_uvloop_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ValueError, match=r"^--uvloop needs uvloop: .* -m pip install uvloop"):
        _uvloop()


def test_where_the_system_manages_packages_an_environment_is_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    plain = install_command("uvloop")
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    assert install_command("uvloop").startswith(f"{plain} (in a virtual environment: ")


def test_a_verb_whose_import_fails_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        cli._verb("nothing", [])
