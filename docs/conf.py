"""How Sphinx builds the site; `make docs` runs it.

The pages are those that are read on the forge, too. So their links to files outside of docs/
become links to the sources there, and a page that only names a file of the project (docs/project)
has that file's text.

Why furo: it reads well on a phone, in the dark and printed, searches without a server, and
requests nothing from anywhere else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "src"))

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = f"{PROJECT['urls']['Homepage']}/blob/main"

from silly import __version__  # noqa: E402 - its path has just been added

project = "silly"
author = "the silly authors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
nitpicky = False
default_role = "py:obj"

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

# A class that a package exports has several targets, and two packages have `Limits`.
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

html_theme = "furo"
html_title = f"silly {release}"
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_favicon = "icon.svg"
html_theme_options = {
    "source_edit_link": f"{SOURCES}/docs/{{filename}}",
    "navigation_with_keys": True,
}
html_last_updated_fmt = None

_LINK = re.compile(r"(\]\()(?!\w+:|#|<)([^)\s#]+)(#[^)\s]*)?(\))")
_STUB = re.compile(r"# .*\n\nThis is \[.*\]\((.*)\)\.\n")


def _stubs() -> dict[Path, Path]:
    """Return the pages that only name a file, by that file."""
    found = {}
    for page in (DOCS / "project").glob("*.md"):
        if stub := _STUB.fullmatch(page.read_text()):
            found[(page.parent / stub[1]).resolve()] = page
    return found


STUBS = _stubs()


def _prepare(_app: Any, name: str, content: list[str]) -> None:
    page = DOCS / f"{name}.md"
    file = page
    if stub := _STUB.fullmatch(content[0]):
        file = (page.parent / stub[1]).resolve()
        content[0] = file.read_text()

    def replace(link: re.Match[str]) -> str:
        target = (file.parent / link[2]).resolve()
        anchor = link[3] or ""
        if not target.exists() or (file == page and target.is_relative_to(DOCS)):
            return link[0]
        target = STUBS.get(target, target)
        if target.is_relative_to(DOCS) and target.suffix in {".md", ".svg", ".png"}:
            return f"{link[1]}/{target.relative_to(DOCS).as_posix()}{anchor}{link[4]}"
        if target.suffix in {".svg", ".png"}:
            return f"{link[1]}/../{target.relative_to(ROOT).as_posix()}{link[4]}"
        return f"{link[1]}{SOURCES}/{target.relative_to(ROOT).as_posix()}{anchor}{link[4]}"

    # Not in blocks of code.
    parts = re.split(r"(^```.*?^```)", content[0], flags=re.DOTALL | re.MULTILINE)
    content[0] = "".join(
        part if part.startswith("```") else _LINK.sub(replace, part) for part in parts
    )


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)
    app.add_lexer("haproxy", TextLexer)
