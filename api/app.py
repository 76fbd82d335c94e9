"""The Flask app: one blueprint for each group of endpoints, and nothing decided here but who may call.

Invariant: a web page cannot use the door through its visitor's browser: the Host header has to be one of ours.
"""

from __future__ import annotations

import ipaddress

from flask import Flask, Request, request

from api import problems
from api.aside import aside_blueprint
from api.config_text import config_blueprint
from api.dashboard_files import dashboard_blueprint
from api.fast_door import FastDoor
from api.health import health_blueprint
from api.ingest import ingest_blueprint
from api.intake import Intakes
from api.live import live_blueprint
from api.live_policy import LivePolicy
from api.parameters import check_encoding
from api.read import read_blueprint
from api.reference.routes import reference_blueprint
from api.timecontrol import blueprint as time_blueprint
from api.window_gauges import window_gauges_blueprint
from pipeline.core.definitions import Config
from pipeline.errors import BadRequestError
from pipeline.rim.connection import reader, writer
from pipeline.runtime.stage_groups import groups_of
from pipeline.runtime.time_keepers import time_keepers

LIVE_HUB = "live_hub"  # among the app's extensions: what ends the live streams when the server stops


def create_app(
    config: Config,
    redis_url: str,
    *,
    loopback_only: bool = True,
    allow_volatile: bool = False,
    live: LivePolicy | None = None,
    config_text: str | None = None,
) -> Flask:
    """Return the WSGI app for a config and a server; `config_text` is the file that the config was read from."""
    app = Flask("streamgauge", static_folder=None)
    problems.register(app)
    if loopback_only:
        app.before_request(lambda: _refuse_foreign_host(request))
    app.before_request(lambda: check_encoding(request.query_string))
    writing = writer(redis_url)
    groups = {name: groups_of(config, name) for name in config.streams}
    intakes = Intakes(writer(redis_url, large_values=True), config, groups, together=writing)
    client = reader(redis_url)
    app.register_blueprint(ingest_blueprint(client, intakes))
    app.register_blueprint(aside_blueprint(config, client, writer(redis_url, large_values=True), intakes))
    app.register_blueprint(time_blueprint(writing, time_keepers(writing, config)))
    app.register_blueprint(read_blueprint(config, client))
    live_streams, app.extensions[LIVE_HUB] = live_blueprint(config, client, live or LivePolicy())
    app.register_blueprint(live_streams)
    app.register_blueprint(window_gauges_blueprint(config, client))
    app.register_blueprint(health_blueprint(config, client, allow_volatile=allow_volatile))
    app.register_blueprint(config_blueprint(config_text))
    app.register_blueprint(dashboard_blueprint(config))
    app.register_blueprint(reference_blueprint(config))
    app.wsgi_app = FastDoor(app, intakes, _refuse_foreign_host if loopback_only else None)  # type: ignore[method-assign]
    return app


def _refuse_foreign_host(request: Request) -> None:
    """A name that resolves to 127.0.0.1 (DNS rebinding) makes a browser send a page's requests here."""
    host = request.host.rpartition("]")[0].lstrip("[") or request.host.partition(":")[0]
    if not _is_local(host):
        raise BadRequestError(
            f"The server is bound to loopback and does not answer to {host[:80]!r}. Use localhost or 127.0.0.1.",
            code="foreign_host",
            status=403,
        )


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
