"""What is published is complete, and the files that the forge reads are right."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import silly

pytestmark = pytest.mark.no_engine

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    source = (ROOT / "src/silly/__init__.py").read_text()
    assert source.count(f'"{silly.__version__}"') == 1
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(silly.__version__)} ", changelog, re.MULTILINE)


def test_the_sdist_takes_what_readme_links_to() -> None:
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = set(re.findall(r"^graft (\S+)", manifest, re.MULTILINE))
    for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", (ROOT / "README.md").read_text()):
        is_taken = target.endswith(".md") and "/" not in target
        assert is_taken or target.split("/")[0] in grafted, target
    containerfile = (ROOT / "Containerfile").read_text()
    for target in re.findall(r"^COPY (?!--from)(.*) \S+$", containerfile, re.MULTILINE):
        for name in target.split():
            assert name == "app.py" or (ROOT / name).exists(), name


def test_the_container_has_all_extras() -> None:
    containerfile = (ROOT / "Containerfile").read_text()
    (stated,) = re.findall(r"/src\[(.*)\]", containerfile)
    extras = PROJECT["project"]["optional-dependencies"]
    has = set(stated.split(","))
    for needed in re.findall(r"silly-net\[(.*?)\]", str([extras[each] for each in sorted(has)])):
        has |= set(needed.split(","))
    assert has == set(extras) - {"bench", "dev", "docs", "fuzz", "tls-dev"}  # for work on silly


def test_workflows_call_targets_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    workflows = list((ROOT / ".github" / "workflows").glob("*.yml"))
    called: set[str] = set()
    for path in workflows:
        for line in re.findall(r"run: make ([\w -]+)", path.read_text()):
            called |= set(line.partition(" PYTHON")[0].split())
    assert {"lint", "docs", "check-python", "smoke", "wheels", "wheel", "check-wheel"} <= called
    assert called <= targets
    for listed in re.findall(r"^# make ([\w-]+)", makefile, re.MULTILINE):
        assert listed in targets


def test_supported_pythons_are_the_same_everywhere() -> None:
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    stated = set(re.findall(r"Python :: (3\.\d+)", classifiers))
    built = {f"3.{each[3:-2]}" for each in PROJECT["tool"]["cibuildwheel"]["build"]}
    tested = (ROOT / ".github/workflows/test.yml").read_text()
    tested = tested.partition("linux:")[2].partition("steps")[0]
    assert stated == built == set(re.findall(r'"(3\.\d+)"', tested))


def test_the_smoke_test_passes_here() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/smoke.py"), silly.engine()],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"silly {silly.__version__} works: {silly.engine()} engine" in done.stdout


def test_the_site_is_checked(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="other.html#there">x</a><a href="gone.html">x</a><a href="other.html#no">x</a>'
        '<img src="https://example.com/x.png"><a href="https://example.com">fine</a>'
    )
    (tmp_path / "other.html").write_text('<p id="there"><script src="gone.js"></script>')
    (tmp_path / "style.css").write_text("@import 'https://example.com/style.css'; p {}")
    command = [sys.executable, str(ROOT / "docs/check_site.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        "index.html links to gone.html, which is not there",
        "index.html links to other.html#no: the page has no such place",
        "index.html loads https://example.com/x.png",
        "other.html loads gone.js, which is not there",
        "style.css loads https://example.com/style.css",
    ]


def test_every_page_is_on_the_site_and_every_public_module() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        if name != "index" and not name.startswith(("tutorial/", "howto/", "api/")):
            assert name in index, name
    api = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    reference = (ROOT / "docs/reference.md").read_text()
    for heading in re.findall(r"^## (silly\S*(?:, silly\S*)*)$", reference, re.MULTILINE):
        for module in heading.split(", "):
            assert f"## {module}\n" in api, f"docs/api lacks {module}"
