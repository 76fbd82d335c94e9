"""`/openapi.json`, `/docs` and `/docs/errors`: made once, when somebody first asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from flask import Blueprint, Response, request

from api.parameters import no_parameters
from api.reference.document import document
from api.reference.endpoints import JSON
from api.reference.error_codes import ERRORS_PATH
from api.reference.page import PAGE_HEADERS, STYLE, STYLE_PATH, docs_page, errors_page
from pipeline.core.definitions import Config

_HTML = "text/html; charset=utf-8"


def reference_blueprint(config: Config) -> Blueprint:
    """The endpoints that describe the others."""
    blueprint = Blueprint("reference", __name__)

    @cache
    def described() -> dict[str, Any]:
        return document(config)

    makers: dict[str, tuple[Callable[[], bytes], str]] = {
        "/openapi.json": (lambda: msgspec.json.format(msgspec.json.encode(described()), indent=1), JSON),
        "/docs": (lambda: docs_page(described()).encode(), _HTML),
        ERRORS_PATH: (lambda: errors_page().encode(), _HTML),
        STYLE_PATH: (lambda: STYLE.encode(), "text/css; charset=utf-8"),
    }
    content = cache(lambda path: makers[path][0]())

    def serve() -> Response:
        no_parameters(request.args)
        return Response(content(request.path), 200, PAGE_HEADERS, content_type=makers[request.path][1])

    for path in makers:
        blueprint.add_url_rule(path, f"reference {path}".replace(".", " "), serve, methods=["GET"])
    return blueprint
