"""Debian's Prometheus scrapes both endpoints of a running API, and has the numbers the API has."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.rim.lifeline import die_with_parent
from tests.api.line import BASE, make_line
from tests.compat.programs import binary, free_port, served
from tests.servers import RunningServer, wait_for
from tests.test_layout import ROOT

JOBS = {"streamgauge": "/metrics", "streamgauge-windows": "/metrics/windows"}
VARIABLES = {"$stream": ".*", "$stage": ".*", "$__rate_interval": "1m"}  # as Grafana fills them in


@contextmanager
def scraping(target: int, folder: Path) -> Iterator[int]:
    """A Prometheus of our own that scrapes a port; its own port."""
    shipped = (ROOT / "deploy/prometheus.yml").read_text("utf-8")
    assert shipped.count("127.0.0.1:8080") == len(JOBS)
    assert shipped.count("scrape_interval: 10s") == 1
    config = folder / "prometheus.yml"
    config.write_text(shipped.replace("127.0.0.1:8080", f"127.0.0.1:{target}").replace("interval: 10s", "interval: 2s"))
    port = free_port()
    options = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(
        [binary("prometheus", "prometheus"), *options], stdout=log, stderr=log, preexec_fn=die_with_parent()
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def ask(port: int, path: str, **parameters: str) -> Any:
    """What Prometheus answers; None while it starts."""
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def found_by(port: int, query: str) -> bool:
    return bool(ask(port, "query", query=query)["result"])


def test_prometheus_scrapes_both_endpoints_and_has_every_family(server: RunningServer, tmp_path: Path) -> None:
    line = make_line(server)
    pages = ["/a", 'say "hi"\\\n', "é\u2028", "", None]
    for page in pages:
        line.add(1, page, 5.0)
    line.tick(20)
    line.work()

    with served(line.http.application) as target, scraping(target, tmp_path) as port:

        def targets() -> dict[str, Any]:
            return {each["labels"]["job"]: each for each in (ask(port, "targets") or {}).get("activeTargets", ())}

        def all_up() -> bool:
            return [each["health"] for each in targets().values()] == ["up"] * len(JOBS)

        wait_for(all_up, "Prometheus to scrape both endpoints", timeout_s=60)
        assert {job: each["lastError"] for job, each in targets().items()} == dict.fromkeys(JOBS, "")
        query = "streamgauge_window_by_page_views"
        wait_for(lambda: len(ask(port, "query", query=query)["result"]) == len(pages), "samples to be there")
        found = {row["metric"].get("page"): row["value"][1] for row in ask(port, "query", query=query)["result"]}
        assert found == {"/a": "1", 'say "hi"\\\n': "1", "é\u2028": "1", '""': "1", None: "1"}
        [end] = ask(port, "query", query='streamgauge_window_end_seconds{metric="by_page"}')["result"]
        assert float(end["value"][1]) == (BASE + 10_000) / 1000

        # Every family that is served has come, with its type and help
        known = ask(port, "metadata")
        for path in JOBS.values():
            served_types = [
                row.split()[2:] for row in line.http.get(path).text.splitlines() if row.startswith("# TYPE")
            ]
            assert served_types
            for name, kind in served_types:
                assert known[name][0]["type"] == kind, name
                assert known[name][0]["help"], name

        # And every query of the dashboard is one, and finds what there is
        board = json.loads((ROOT / "deploy/grafana/dashboards/pipeline.json").read_text("utf-8"))
        for query in (target["expr"] for panel in board["panels"] for target in panel["targets"]):
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            wait_for(partial(found_by, port, query), f"samples of {query}")  # of a rate after the second scrape
