"""Health, Prometheus text, and the index at `/`.

Invariant: `/livez` asks nobody, so that an orchestrator does not restart the API because Redis is away.
"""

from __future__ import annotations

from dataclasses import asdict
from html import escape

import redis
from flask import Blueprint, Response, current_app, request
from prometheus_client import CONTENT_TYPE_LATEST

from api.answers import json_response
from api.parameters import no_parameters
from api.problems import problem
from api.prometheus import metrics_text
from api.readiness import Readiness
from pipeline.core.definitions import Config

RETRY_AFTER_S = 5  # an unready installation needs somebody to do something; a probe comes again anyhow
NEED_PARAMETERS = {"/v1/live"}  # no link: it answers nothing without
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def health_blueprint(config: Config, client: redis.Redis, *, allow_volatile: bool = False) -> Blueprint:
    """The endpoints for machines that watch, and the index for people."""
    blueprint = Blueprint("health", __name__)
    readiness = Readiness(config, client, allow_volatile)

    @blueprint.get("/livez")
    def livez() -> Response:
        no_parameters(request.args)
        return json_response({"alive": True})

    @blueprint.get("/readyz")
    def readyz() -> Response:
        no_parameters(request.args)
        checks = readiness.checks()
        listed = [asdict(check) for check in checks]
        failed = [check for check in checks if not check.ok]
        if not failed:
            return json_response({"ready": True, "checks": listed})
        detail = "; ".join(f"{check.name}: {check.detail}. {check.advice}" for check in failed)
        retry = {"Retry-After": str(RETRY_AFTER_S)}
        return problem(503, "not_ready", detail, headers=retry, ready=False, checks=listed)

    @blueprint.get("/metrics")
    def prometheus() -> Response:
        no_parameters(request.args)
        return Response(metrics_text(client, config), 200, content_type=CONTENT_TYPE_LATEST)

    @blueprint.get("/")
    def index() -> Response:
        no_parameters(request.args)
        return Response(index_page(config, endpoints()), 200, PAGE_HEADERS, content_type="text/html; charset=utf-8")

    return blueprint


def endpoints() -> list[tuple[str, str]]:
    """(method, path) of every endpoint of the running app that does something, by path."""
    rules = (rule for rule in current_app.url_map.iter_rules() if "<any(" not in rule.rule)
    methods = (
        (rule.rule, method) for rule in rules for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    )
    return [(method, path) for path, method in sorted(methods)]


def index_page(config: Config, listed: list[tuple[str, str]]) -> str:
    """A page without script or style: the endpoints, and a link to each metric and stream."""
    metrics = "".join(_item(f"/v1/metrics/{stage.name}", stage.name) for stage in config.aggregates())
    streams = "".join(_item(f"/v1/streams/{name}/events", name) for name in config.streams)
    lines = "".join(_endpoint(method, path) for method, path in listed)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Streamgauge</title></head><body>'
        f"<h1>Streamgauge</h1><h2>Metrics</h2><ul>{metrics}</ul><h2>Newest events</h2><ul>{streams}</ul>"
        f"<h2>Endpoints</h2><ul>{lines}</ul></body></html>\n"
    )


def _item(path: str, text: str) -> str:
    return f'<li><a href="{escape(path)}">{escape(text)}</a></li>'


def _endpoint(method: str, path: str) -> str:
    if method == "GET" and "<" not in path and path not in NEED_PARAMETERS:
        return _item(path, f"GET {path}")
    return f"<li>{escape(method)} {escape(path)}</li>"
