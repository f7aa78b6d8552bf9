"""The HTML report: it is complete and self-contained, and a browser draws it."""

from __future__ import annotations

import html
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silly.bench import charts, report
from silly.text import printable
from tests.bench import servers
from tests.bench.servers import serving

pytestmark = pytest.mark.no_engine

CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--allow-file-access-from-files", "--virtual-time-budget=4000",
]  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports of a good run (good.html) and a bad one (bad.html)."""
    folder = tmp_path_factory.mktemp("report")
    for name, serve, options in (
        ("good", servers.echo, ["--rate", "2000", "-t", "300ms", "--interval", "50ms"]),
        ("bad", servers.corrupting, ["-t", "200ms", "--interval", "50ms", "--assert", "p99<1ns"]),
    ):
        with serving(serve) as addr:
            subprocess.run(
                [sys.executable, "-m", "silly", "bench", addr, *options, "-q",
                 "--html", str(folder / f"{name}.html"), "--json", str(folder / f"{name}.json")],
                capture_output=True, check=False, timeout=60,
            )  # fmt: skip
    return folder


class Page(html.parser.HTMLParser):
    """Collects the external resources of a page, and the text that it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elsewhere: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elsewhere += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_page_is_self_contained(pages: Path) -> None:
    text = (pages / "good.html").read_text()
    page = Page(text)
    assert page.elsewhere == []
    assert "%%" not in text
    assert "<script" not in text
    assert len(text) < 200_000
    assert "every reply was right, byte for byte" in page.shown
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    command = json.loads((pages / "good.json").read_text())["command"]
    assert re.match("silly bench 127.0.0.1:[0-9]+ --rate 2000 -t 300ms ", command)
    assert command in page.shown


def test_the_page_shows_errors(pages: Path) -> None:
    text = Page((pages / "bad.html").read_text()).shown
    assert "byte 20 of the reply is wrong" in text
    assert "fails: p99<1ns" in text


def test_a_server_cannot_break_the_page(pages: Path) -> None:
    result: dict[str, Any] = json.loads((pages / "bad.json").read_text())
    result["errors"]["first"] = ["</script><script>alert(1)</script>"]
    result["errors"]["kinds"] = {"</script>": 1}
    result["command"] = "silly bench '<script>alert(1)'"
    result["addr"] = "<b>&"
    page = report.html(result)
    assert "<script>alert" not in page
    assert page.count("<script>") == page.count("</script>") == 0
    assert "<b>&" not in page


TEXTS = [
    "%%CHARTS%% %%COMMAND%% %%NOTES%%", "</script><!--<script>", "\x1b]0;x\x07\u202e\u2028\udc80\n",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_escaped(pages: Path, text: str) -> None:
    result: dict[str, Any] = json.loads((pages / "bad.json").read_text())
    plain = report.html(result)
    result["errors"]["first"] = result["warnings"] = [text]
    result["errors"]["kinds"] = {text: 1}
    result["addr"] = result["plan"]["addr"] = result["plan"]["template"] = text
    page = report.html(result)
    assert abs(len(page) - len(plain)) < 10_000
    assert re.findall("<!--|</?script", page) == re.findall("<!--|</?script", plain)
    assert not re.search("[\x1b\x07\u202e\u2028\udc80]", page)
    assert printable(text) in Page(page).shown


def test_a_run_without_any_reply(pages: Path) -> None:
    result: dict[str, Any] = json.loads((pages / "bad.json").read_text())
    empty: dict[str, Any] = dict.fromkeys(("min", "mean", "max"))
    empty |= {"count": 0, "percentiles": {}, "histogram": []}
    result |= {"latency": empty, "intervals": [], "requests": 0, "rate": 0.0}
    assert "no latencies: no request was answered" in Page(report.html(result)).shown


def test_no_axis_repeats_a_label() -> None:
    for values in ([], [0], [1], [2, 3], [7], [1234.5], [99_999], [3e6], [5e9]):
        axis = charts.count_axis(values)
        labels = [label for _, label in axis.ticks]
        assert len(set(labels)) == len(labels) >= 2
        assert all(axis.low <= at <= axis.high for at, _ in axis.ticks)
    for start, end in ((0, 0.003), (-0.5, 0.3), (0, 1), (0, 10), (0, 0), (-2, 3600), (5, 86400.5)):
        labels = [label for _, label in charts.time_axis(start, end).ticks]
        assert len(set(labels)) == len(labels) >= 2
    for latencies in ([], [0.0], [1e-3], [20e-6, 30e-6], [1e-6, 9.0], [0.011, 0.012]):
        labels = [label for _, label in charts.latency_axis(latencies).ticks]
        assert len(set(labels)) == len(labels) >= 2
    for count in (0, 1, 10, 100, 1000, 10**6):
        labels = [label for _, label in charts.percentile_axis(count).ticks]
        assert len(set(labels)) == len(labels) >= 3
    assert charts.percentile_axis(10_000).ticks[-2:] == [(1000.0, "99.9"), (10_000.0, "99.99")]


def test_the_height_of_bars(pages: Path) -> None:
    for name in ("good", "bad"):
        result = json.loads((pages / f"{name}.json").read_text())
        page = (pages / f"{name}.html").read_text()
        # The figures in the titles of the marks add up to those of the result.
        errors = re.findall(r": (\d+) errors</title>", page)
        assert sum(map(int, errors)) == result["errors"]["total"]
        about = re.findall(r"about [^<]*: (\d+)</title>", page)
        assert sum(map(int, about)) == result["latency"]["count"]
        if name == "good":
            late = re.findall(r": (\d+) sent late</title>", page)
            assert sum(map(int, late)) == result["open_loop"]["late"]
    chart = charts.bars(
        "x", charts.time_axis(0, 2), charts.count_axis([5]), [(0, 1, 5, ""), (1, 2, 2.5, "")]
    )
    heights = [float(high) for high in re.findall(r'height="([\d.]+)"', chart)]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)


def test_gaps_are_gaps() -> None:
    points: list[charts.Point] = [(0, 1.0, ""), (1, None, ""), (2, 1.0, ""), (3, 1.0, "")]
    chart = charts.lines("x", charts.time_axis(0, 3), charts.latency_axis([1.0]), [points])
    path = re.search(r'class="line c0" d="([^"]*)"', chart)
    assert path is not None
    assert (path[1].count("M"), path[1].count("L")) == (2, 1)


def test_a_browser_draws_it(pages: Path, tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    # A window is at least 500 pixels wide, so a frame simulates a phone. The title of the page
    # with the frames reports their layout.
    sizes = [(name, width) for name in ("good", "bad") for width in (390, 1280)]
    frames = pages / "frames.html"
    frames.write_text(
        "".join(
            f'<iframe src="{name}.html" style="border:0;width:{width}px;height:2400px"></iframe>'
            for name, width in sizes
        )
        + "<script>onload = () => { document.title = JSON.stringify(Array.from(frames, "
        "({document: page}) => ({"
        "wide: page.documentElement.scrollWidth,"
        "plots: [...page.querySelectorAll('.plot')].map(plot => ({id: plot.id,"
        "paths: plot.querySelectorAll('path, rect').length,"
        "fits: plot.querySelector('svg').getBoundingClientRect().right"
        " <= plot.parentNode.getBoundingClientRect().right + 1}))}))) }</script>"
    )
    layouts = json.loads(_browse(frames, tmp_path))
    for (name, width), layout in zip(sizes, layouts, strict=True):
        assert layout["wide"] <= width
        assert [plot["id"] for plot in layout["plots"]] == [
            "curve", "bars", "times", "rates", "errors", *(["late"] if name == "good" else []),
        ]  # fmt: skip
        assert all(plot["fits"] and plot["paths"] > 5 for plot in layout["plots"]), layout


@pytest.mark.parametrize(("scheme", "brightness"), [(1, range(200, 256)), (0, range(60))])
def test_light_and_dark(pages: Path, tmp_path: Path, scheme: int, brightness: range) -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    dark = f"--blink-settings=preferredColorScheme={scheme}"
    page = pages / f"colour{scheme}.html"
    page.write_text(
        '<iframe src="good.html"></iframe><script>onload = () => { document.title ='
        "frames[0].getComputedStyle(frames[0].document.body).backgroundColor }</script>"
    )
    colour = _browse(page, tmp_path, dark)
    assert int(re.findall(r"\d+", colour)[0]) in brightness


def _browse(page: Path, profile: Path, *options: str) -> str:
    """Return the title that *page* gives itself in a browser."""
    done = subprocess.run(
        [*CHROMIUM, f"--user-data-dir={profile}", "--dump-dom", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found, done
    return html.unescape(found[1])
