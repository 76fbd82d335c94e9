"""Health, and Prometheus text.

Invariant: `/livez` asks nobody, so that an orchestrator does not restart the API because Redis is away.
"""

from __future__ import annotations

from dataclasses import asdict

import redis
from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST

from api.answers import json_response
from api.parameters import no_parameters
from api.problems import problem
from api.prometheus import metrics_text
from api.readiness import Readiness
from pipeline.core.definitions import Config

RETRY_AFTER_S = 5  # an unready installation needs somebody to do something; a probe comes again anyhow


def health_blueprint(config: Config, client: redis.Redis, *, allow_volatile: bool = False) -> Blueprint:
    """The endpoints for machines that watch."""
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

    return blueprint
