"""Check a built site: every internal link is alive, and nothing is requested from elsewhere.

python docs/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "manifest", "preconnect"}


class Page(HTMLParser):
    """The links of a page, what it loads, and the places that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each element."""
        found = {name: value or "" for name, value in attrs}
        if "id" in found:
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and LOADED[tag] in found:
            self.loads.append(found[LOADED[tag]])
        if tag == "link" and LOADING_LINKS & set(found.get("rel", "").split()):
            self.loads.append(found["href"])


def check(site: Path) -> list[str]:
    """Return what is wrong with the pages in *site*, one line each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    wrong = [] if pages else [f"there is no page in {site}"]
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.loads:
            if urlsplit(link).netloc or urlsplit(link).scheme not in {"", "data"}:
                wrong.append(f"{name} loads {link}")
            elif not (path.parent / unquote(urlsplit(link).path)).exists():
                wrong.append(f"{name} loads {link}, which is not there")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{name} links to {link}, which is not there")
            elif parts.fragment and target in pages and parts.fragment not in pages[target].ids:
                wrong.append(f"{name} links to {link}: the page has no such place")
    for path in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import )['\"]?([^'\") ]+)", path.read_text(encoding="utf-8"))
        name = path.relative_to(site)
        wrong += [f"{name} loads {url}" for url in urls if urlsplit(url).netloc]
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(check(Path(sys.argv[1]).resolve())) or None)
