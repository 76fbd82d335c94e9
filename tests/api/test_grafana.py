"""The dashboards under deploy/grafana against the contract: every address, parameter, column and metric answers.

No Grafana runs here. What a panel asks for is asked here as Grafana would, of the shipped config with events in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from pipeline.core.programs import compile_programs
from pipeline.runtime.config import load_config
from pipeline.runtime.live_rows import column_types
from tests.line import Line
from tests.servers import bundled_binary, start_server
from tests.test_layout import ROOT

GRAFANA = ROOT / "deploy/grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
COLUMN_TYPES = {"timestamp_epoch": {"timestamp"}, "number": {"int", "float"}, "string": {"string"}}
META_TIMES = {"watermark", "complete_to", "complete_from", "start", "end"}
FROM_MS, TO_MS = 1_700_000_000_000, 1_700_000_100_000
GRAFANA_VARIABLES = {"${__from}": str(FROM_MS), "${__to}": str(TO_MS)}
LABELS = re.compile(r"\{([^}]*)\}|by \(([^)]*)\)")


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def panels() -> Iterator[tuple[str, Any]]:
    for path in DASHBOARDS:
        for panel in load(path)["panels"]:
            yield f"{path.stem}: {panel['title']}", panel


def targets(kind: str) -> Iterator[Any]:
    """Every query to a kind of data source."""
    for title, panel in panels():
        for target in panel["targets"]:
            if target["datasource"]["type"] == kind:
                yield pytest.param(target, id=f"{title} {target['refId']}")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The shipped config with something in each metric that the dashboards show; the tests only read it."""
    server = start_server(bundled_binary(), tmp_path_factory.mktemp("grafana"))
    line = Line(load_config(ROOT / "config.yaml", {}), server)
    seconds = range(0, 60, 5)
    views = [{"ts": FROM_MS + s * 1_000, "user": "ada", "page": "/docs/a", "load_ms": 12.5} for s in seconds]
    readings = [{"ts": FROM_MS + s * 1_000, "sensor": "s1", "temperature": 20.5, "humidity": 40.0} for s in seconds]
    for stream, events in (("pageviews", views), ("sensors", readings)):
        line.post(stream, events)
        line.end(stream, FROM_MS + 60_000)
    line.settle()
    yield line
    server.close()


def test_there_are_two_dashboards_with_different_ids_and_every_panel_has_a_query() -> None:
    boards = [load(path) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers)
    for title, panel in panels():
        assert panel["targets"], title
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs), title


def test_panels_stand_beside_each_other_and_not_on_each_other() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in load(path)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells


def test_every_data_source_that_is_named_is_provisioned() -> None:
    yaml = YAML(typ="safe")
    sources = yaml.load((GRAFANA / "provisioning/datasources/streamgauge.yaml").read_text("utf-8"))["datasources"]
    provisioned = {(source["type"], source["uid"]) for source in sources}
    named = set()
    for path in DASHBOARDS:
        board = load(path)
        queries = [target for panel in board["panels"] for target in (panel, *panel["targets"])]
        named |= {(q["datasource"]["type"], q["datasource"]["uid"]) for q in (*queries, *board["templating"]["list"])}
    assert named == provisioned
    [provider] = yaml.load((GRAFANA / "provisioning/dashboards/streamgauge.yaml").read_text("utf-8"))["providers"]
    assert provider["options"]["path"] in (ROOT / "docs/grafana.md").read_text("utf-8")


@pytest.mark.parametrize("target", list(targets("yesoreyeram-infinity-datasource")))
def test_every_query_of_the_api_answers_with_the_columns_it_shows(shipped: Line, target: Any) -> None:
    parameters = {each["key"]: each["value"] for each in target["url_options"]["params"]}
    known = {name: GRAFANA_VARIABLES.get(value, value) for name, value in parameters.items()}
    assert not [value for value in known.values() if "$" in value]
    answer = shipped.http.get(target["url"], query_string=known)
    assert answer.status_code == 200, answer.text
    found = answer.get_json()[target["root_selector"]]
    assert found

    metric = target["url"].split("/")[3]
    types = column_types(compile_programs(shipped.config)[metric])
    shown = found[0] if isinstance(found, list) else found
    for column in target["columns"]:
        name = column["selector"]
        assert name in shown
        if target["root_selector"] == "meta":
            assert (name in META_TIMES, column["type"]) == (True, "timestamp_epoch")
        else:
            assert types[name] in COLUMN_TYPES[column["type"]], name
    if target["format"] == "timeseries":
        assert [column["type"] for column in target["columns"]].count("timestamp_epoch") == 1


@pytest.mark.parametrize("target", list(targets("prometheus")))
def test_every_prometheus_metric_and_label_of_the_dashboards_is_served(shipped: Line, target: Any) -> None:
    served = labels_served(shipped)
    names = re.findall(r"streamgauge_\w+", target["expr"])
    assert names
    for name in names:
        assert name in served, name
        asked = [part for pair in LABELS.findall(target["expr"]) for part in pair if part]
        for label in re.findall(r"(?:^|,)\s*(\w+)", ",".join(asked)):
            assert label in served[name], (name, label)
    for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
        assert any(label in served[name] for name in names), label


def test_the_variables_of_the_dashboards_are_labels_that_are_served(shipped: Line) -> None:
    served = labels_served(shipped)
    for path in DASHBOARDS:
        board = load(path)
        for variable in board["templating"]["list"]:
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            assert match[2] in served[match[1]]
        used = set(re.findall(r"\$(?!__)(\w+)", json.dumps([panel["targets"] for panel in board["panels"]])))
        assert used == {variable["name"] for variable in board["templating"]["list"]}


def labels_served(line: Line) -> dict[str, set[str]]:
    """The labels of every sample that either endpoint has, by name."""
    found: dict[str, set[str]] = {}
    for path in ("/metrics", "/metrics/windows"):
        for family in text_string_to_metric_families(line.http.get(path).text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found
