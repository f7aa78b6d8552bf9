"""The dashboard and the alert rules: what they ask for is there, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from silly import metrics
from tests.workers.harness import DEADLINE, ask, running, script

pytestmark = pytest.mark.no_engine

OPS = Path(__file__).parent.parent / "ops"
DASHBOARD = json.loads((OPS / "grafana-dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
RULES = re.findall(r"^ +expr: (.*)$", (OPS / "alerts.yml").read_text(), re.MULTILINE)
NAMES = re.compile(r"\b(?:silly|process)_\w+")

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")


def exported() -> Iterator[tuple[str, set[str]]]:
    """Each series' name, with its labels."""
    for metric in metrics.METRICS:
        labels = {"listener"} if metric.where == "listener" else set()
        labels |= {*metric.labels, *([metric.label] if metric.label else [])}
        if metric.kind == "counter":
            yield f"{metric.name}_total", labels
        elif metric.kind == "histogram":
            yield from ((f"{metric.name}_{end}", labels) for end in ("sum", "count"))
            yield f"{metric.name}_bucket", {*labels, "le"}
        else:
            yield metric.name, labels


@pytest.mark.parametrize("query", [*QUERIES, *RULES], ids=lambda query: query[:40])
def test_queries_name_metrics_and_labels_that_are_exported(query: str) -> None:
    known = dict(exported())
    assert NAMES.search(query)
    labels = {"job", "instance"}
    for name in NAMES.findall(query):
        assert name in known, query
        labels |= known[name]
    used = re.findall(r"(\w+) ?(?:=~|!~|!=|=)", query)
    for group in re.findall(r"by \(([^)]*)\)", query):
        used += group.split(", ")
    assert set(used) <= labels, query


def test_the_alerts_are_in_the_docs() -> None:
    page = (OPS.parent / "docs" / "howto" / "what-to-watch.md").read_text()
    for name in re.findall(r"alert: (\w+)", (OPS / "alerts.yml").read_text()):
        assert f"`{name}`" in page


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@needs_promtool
@pytest.mark.parametrize("command", ["check rules alerts.yml", "test rules alerts_test.yml"])
def test_promtool(command: str) -> None:
    done = subprocess.run(
        ["promtool", *command.split()],
        cwd=OPS, capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus")
def test_a_real_prometheus_answers_the_dashboard_and_the_rules(tmp_path: Path, port: int) -> None:
    with running(
        "-m", "silly", "--workers", "2", "--metrics", "127.0.0.1:0", script(tmp_path)
    ) as silly:
        target = silly.until(r"metrics at http://([^/]+)")[0]
        addr = silly.until(r"listening \S+ \d+ (\S+)")[0]
        silly.until("is ready", times=2 - silly.output.count("is ready"))
        ask(addr, b"hello\n")
        (tmp_path / "prometheus.yml").write_text(
            f"""
global: {{scrape_interval: 200ms, evaluation_interval: 1s}}
rule_files: ["{OPS}/alerts.yml"]
scrape_configs:
  - {{job_name: app, static_configs: [{{targets: ["{target}"]}}]}}
"""
        )
        with subprocess.Popen(
            [
                *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
                *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
            ],
            cwd=tmp_path,
        ) as prometheus:
            try:
                check_queries(f"http://127.0.0.1:{port}/api/v1")
            finally:
                prometheus.kill()
        silly.stop()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as response:
        found = json.load(response)
    assert found["status"] == "success", found
    return found["data"]


def check_queries(api: str) -> None:
    def result(query: str) -> Any:
        query = query.replace("$__rate_interval", "1m")
        query = re.sub(r"\$(job|instance|listener)", ".*", query)
        return get(f"{api}/query?{urllib.parse.urlencode({'query': query})}")["result"]

    def wait_for(query: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                if result(query):
                    return
            except OSError:
                pass  # it does not listen yet
            assert time.monotonic() < deadline, query
            time.sleep(0.1)  # for Prometheus

    wait_for("sum(rate(silly_connections_accepted_total[1m]))")
    # These exist only after what they count has happened, or with TLS or datagrams.
    rare = "http|pubsub|tls|refused|limits|handler_errors|send_errors|stalls|ending"
    for query in QUERIES:
        if re.search(rare, query):
            result(query)
        else:
            wait_for(query)
    rules = get(f"{api}/rules")["groups"][0]["rules"]
    assert len(rules) == len(RULES)
