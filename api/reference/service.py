"""The endpoints for whoever runs the server: health, Prometheus, the reference and the dashboard, described."""

from __future__ import annotations

from api.reference.endpoints import OBJECT, TEXT, Body, Endpoint, Parameter, array, json_body, members
from api.reference.error_codes import ERRORS_PATH

_PAGE = Body({"text/html": TEXT})

SERVICE: tuple[Endpoint, ...] = (
    Endpoint(
        "get",
        "/livez",
        "service",
        "Whether the process runs",
        "Asks nobody else.",
        json_body(members({"alive": {"type": "boolean"}}), {"alive": True}),
    ),
    Endpoint(
        "get",
        "/readyz",
        "service",
        "Whether the installation does its work",
        "Each check with what to do where it fails; 503 where one does.",
        json_body(members({"ready": {"type": "boolean"}, "checks": array(OBJECT)})),
    ),
    Endpoint(
        "get",
        "/metrics",
        "service",
        "The pipeline's numbers for Prometheus",
        "In its text format.",
        Body({"text/plain": TEXT}),
    ),
    Endpoint(
        "get",
        "/metrics/windows",
        "service",
        "The newest closed window of every metric, for Prometheus",
        "One family of gauges for each value.",
        Body({"text/plain": TEXT}),
    ),
    Endpoint(
        "get",
        "/v1/config",
        "service",
        "The config that this server runs",
        "As text, with passwords masked; null where it came from no file.",
        json_body(members({"text": {"type": ["string", "null"]}})),
    ),
    Endpoint("get", "/openapi.json", "service", "This document", "OpenAPI 3.1.", json_body(OBJECT)),
    Endpoint("get", "/docs", "service", "This document as a page", "Without scripts.", _PAGE),
    Endpoint("get", ERRORS_PATH, "service", "What each error code means", "What `type` of a problem points to.", _PAGE),
    Endpoint("get", "/docs/style.css", "service", "How the pages look", "Of /docs.", Body({"text/css": TEXT})),
    Endpoint(
        "get",
        "/",
        "service",
        "The dashboard",
        "A page; JSON with the endpoints for whoever asks for no page.",
        Body({"text/html": TEXT, "application/json": OBJECT}),
        has_etag=True,
    ),
    Endpoint(
        "get",
        "/dashboard/{file}",
        "service",
        "A file of the dashboard",
        "Scripts and styles, served from memory.",
        Body({"text/javascript": TEXT, "text/css": TEXT, "image/svg+xml": TEXT, "text/plain": TEXT}),
        (Parameter("file", "its name", place="path", example="app.js"),),
        problems=(404,),
        has_etag=True,
    ),
)
