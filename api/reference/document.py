"""The OpenAPI 3.1 document of an installation: the described endpoints, with the names its config has.

Invariant: every route of the app is here and nothing else, and parameters are checked by the names they are described
by (tests compare both).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from api.reference.endpoints import TEXT, WHOLE, Endpoint, Parameter, array, members
from api.reference.error_codes import ERRORS_PATH
from api.reference.metrics import ENVELOPE, METRICS
from api.reference.service import SERVICE
from api.reference.streams import STREAMS
from pipeline.core.definitions import Config

ENDPOINTS: tuple[Endpoint, ...] = (*METRICS, *STREAMS, *SERVICE)
VERSION = "0.1.0"
PROBLEM_TYPE = "application/problem+json"
# Every endpoint: malformed, a foreign Host, our fault, Redis away.
EVERYWHERE = (400, 403, 500, 503)
_PROBLEM = members(
    {"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT, "code": TEXT},
    {"errors": array({"type": "object"})},
)
_PROBLEM_EXAMPLE = {
    "type": f"{ERRORS_PATH}#unknown_parameter",
    "title": "Bad Request",
    "status": 400,
    "detail": "there is no parameter 'sart' here. Did you mean 'start'?",
    "code": "unknown_parameter",
    "errors": [],
}


def document(config: Config) -> dict[str, Any]:
    """The document as JSON values."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint, config)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Streamgauge",
            "version": VERSION,
            "description": "Events in over HTTP, exact event-time windows out. Times in answers are epoch milliseconds "
            "in UTC; unknown parameters are refused.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in ENDPOINTS)],
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, "MetricAnswer": ENVELOPE},
            "responses": {"Problem": _problem("What was wrong, and the way out")},
        },
    }


def _operation(endpoint: Endpoint, config: Config) -> dict[str, Any]:
    parameters = [each for parameter in endpoint.parameters for each in _named(parameter, config)]
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": endpoint.description,
        "parameters": [each.described() for each in parameters],
        "responses": {str(endpoint.status): _answer(endpoint)},
    }
    if endpoint.has_etag:
        operation["parameters"].append(
            Parameter(
                "If-None-Match", "the ETag of an answer: 304 if it still is the answer", place="header"
            ).described()
        )
        operation["responses"]["304"] = {"description": "The answer is still the one with this ETag"}
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": endpoint.body.described()}
    for status in sorted({*EVERYWHERE, *endpoint.problems}):
        operation["responses"][str(status)] = {"$ref": "#/components/responses/Problem"}
    return operation


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": HTTPStatus(endpoint.status).phrase,
        "content": endpoint.answer.described(),
    }
    if endpoint.has_etag:
        etag = "weak; another whenever the answer would be"
        answer["headers"] = {"ETag": {"description": etag, "schema": dict(TEXT)}}
    return answer


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {PROBLEM_TYPE: {"schema": schema, "example": _PROBLEM_EXAMPLE}},
    }


def _named(parameter: Parameter, config: Config) -> list[Parameter]:
    """A parameter with the names of this installation; `where.<field>` once for each group field there is."""
    known = {
        "metric": [stage.name for stage in config.aggregates()],
        "stream": list(config.streams),
        "stage": list(config.stages),
    }
    if parameter.name == "where.{field}":
        fields = dict.fromkeys(name for stage in config.aggregates() for name in stage.group_by)
        return [Parameter(f"where.{name}", parameter.description) for name in fields]
    if parameter.place == "path" and known.get(parameter.name):
        names = known[parameter.name]
        schema = {**parameter.schema, "enum": names}
        return [Parameter(parameter.name, parameter.description, schema, "path", example=names[0])]
    return [parameter]


def _operation_id(endpoint: Endpoint) -> str:
    words = endpoint.path.replace("{", "").replace("}", "").replace(".", "_").replace("-", "_")
    return f"{endpoint.method}_{'_'.join(word for word in words.split('/') if word) or 'index'}"
