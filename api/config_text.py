"""`GET /v1/config`: the text of the config that this server runs, with passwords masked.

Invariant: what is between `//` and `@` of an address never leaves the server, wherever in the file it stands.
"""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from api.answers import json_response
from api.parameters import no_parameters

MASK = "***"
# Up to the last @ of the word: a password may hold any of `:/@#`.
_CREDENTIALS = re.compile(r"(?<=://)[^\s\"']*@")


def config_blueprint(text: str | None) -> Blueprint:
    """The endpoint; `text` is None where the app was made from no file."""
    blueprint = Blueprint("config", __name__)
    shown = None if text is None else masked(text)

    @blueprint.get("/v1/config")
    def read_config() -> Response:
        no_parameters(request.args)
        return json_response({"text": shown})

    return blueprint


def masked(text: str) -> str:
    """Return the text with the user and password of every address in it replaced."""
    return _CREDENTIALS.sub(f"{MASK}@", text)
