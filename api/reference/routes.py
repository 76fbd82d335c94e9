"""`/openapi.json`, `/docs` and `/docs/errors`: made once, when the app starts."""

from __future__ import annotations

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
    described = document(config)
    files = {
        "/openapi.json": (msgspec.json.format(msgspec.json.encode(described), indent=1), JSON),
        "/docs": (docs_page(described).encode(), _HTML),
        ERRORS_PATH: (errors_page().encode(), _HTML),
        STYLE_PATH: (STYLE.encode(), "text/css; charset=utf-8"),
    }

    def serve() -> Response:
        no_parameters(request.args)
        content, content_type = files[request.path]
        return Response(content, 200, PAGE_HEADERS, content_type=content_type)

    for path in files:
        blueprint.add_url_rule(path, f"reference {path}".replace(".", " "), serve, methods=["GET"])
    return blueprint
