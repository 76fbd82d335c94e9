"""The reading side: metrics, streams and stages.

Invariant: a name in a path is looked up in the config before anything else, so no client's text becomes part of a key;
the one exception, the hash of a table's content, is hexadecimal or refused.
"""

from __future__ import annotations

import re

import redis
from flask import Blueprint, Response, request

from api.accounts import (
    event_account,
    metric_account,
    raw_account,
    stage_account,
    stream_account,
    watermark_account,
)
from api.answers import json_response, metric_response
from api.cursors import next_cursor
from api.etags import etag, tagged, unchanged
from api.metric_parameters import explain_request, latest_format, metric_request, rolling_request
from api.parameters import (
    event_limit,
    event_request,
    known_name,
    no_parameters,
    raw_request,
    source_limit,
)
from api.skew import skew_account
from pipeline.core.definitions import Config
from pipeline.errors import BadRequestError, MissingTableError
from pipeline.rim import table_cache
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.explain_event import explain_event
from pipeline.runtime.explain_report import event_json, window_json
from pipeline.runtime.explain_window import explain_window, subject_of
from pipeline.runtime.query import Metrics, rolling_span
from pipeline.runtime.raw_log import raw_page
from pipeline.runtime.recent import newest_events
from pipeline.runtime.skew import skew_report
from pipeline.runtime.status import read_status
from pipeline.runtime.stream_time import stream_time
from pipeline.runtime.time_keepers import horizons_of

CONTENT_HASH = re.compile(r"[0-9a-f]{32}", re.ASCII)


def read_blueprint(config: Config, client: redis.Redis) -> Blueprint:
    """The reading endpoints; `client` is only read from."""
    blueprint = Blueprint("read", __name__)
    _add_metrics(blueprint, config, client)
    _add_streams(blueprint, config, client)
    _add_stages(blueprint, config, client)
    return blueprint


def _add_metrics(blueprint: Blueprint, config: Config, client: redis.Redis) -> None:
    metrics = Metrics(config, client)

    @blueprint.get("/v1/metrics")
    def list_metrics() -> Response:
        no_parameters(request.args)
        programs = [metrics.program(name) for name in metrics.programs]
        accounts = [metric_account(config, program, metrics.completeness(program)) for program in programs]
        return json_response({"metrics": accounts})

    @blueprint.get("/v1/metrics/<metric>")
    def read_metric(metric: str) -> Response:
        program = metrics.program(known_name("metric", metric, metrics.programs))
        asked = metric_request(request.args, program, redis_time_ms(client))
        tag = etag(program, metrics.state(program), *metrics.question(asked.query, program), asked.format)
        if request.if_none_match.contains_weak(tag):
            return unchanged(tag)
        answer = metrics.query(asked.query, program)
        return tagged(metric_response(answer, asked.format, next_cursor(request.args, answer)), tag)

    @blueprint.get("/v1/metrics/<metric>/latest")
    def read_latest(metric: str) -> Response:
        program = metrics.program(known_name("metric", metric, metrics.programs))
        form = latest_format(request.args)
        tag = etag(program, metrics.state(program), "latest", form)
        if request.if_none_match.contains_weak(tag):
            return unchanged(tag)
        return tagged(metric_response(metrics.latest(metric, program), form), tag)

    @blueprint.get("/v1/metrics/<metric>/rolling")
    def read_rolling(metric: str) -> Response:
        program = metrics.program(known_name("metric", metric, metrics.programs))
        asked = rolling_request(request.args, program, redis_time_ms(client))
        span = rolling_span(program, asked.window_ms, asked.at_ms)
        tag = etag(program, metrics.state(program), "rolling", span, asked.where, asked.format)
        if request.if_none_match.contains_weak(tag):
            return unchanged(tag)
        answer = metrics.rolling(metric, asked.window_ms, asked.at_ms, asked.where, program)
        return tagged(metric_response(answer, asked.format), tag)

    @blueprint.get("/v1/metrics/<metric>/explain")
    def explain_metric(metric: str) -> Response:
        program = metrics.program(known_name("metric", metric, metrics.programs))
        asked = explain_request(request.args, program, redis_time_ms(client))
        subject = subject_of(client, program, asked.start_ms, asked.end_ms, asked.where)
        return json_response(window_json(explain_window(client, config, subject), asked.where))


def _add_streams(blueprint: Blueprint, config: Config, client: redis.Redis) -> None:
    @blueprint.get("/v1/streams")
    def list_streams() -> Response:
        no_parameters(request.args)
        status = read_status(client, config)
        times = [stream_time(each, horizons_of(config, name), status.now_ms) for name, each in status.streams.items()]
        return json_response({"now": status.now_ms, "streams": [stream_account(time) for time in times]})

    @blueprint.get("/v1/streams/<stream>/watermark")
    def read_watermark(stream: str) -> Response:
        known_name("stream", stream, config.streams)
        no_parameters(request.args)
        status = read_status(client, config, [stream])
        found = stream_time(status.streams[stream], horizons_of(config, stream), status.now_ms)
        return json_response(watermark_account(found))

    @blueprint.get("/v1/streams/<stream>/skew")
    def read_skew(stream: str) -> Response:
        known_name("stream", stream, config.streams)
        limit = source_limit(request.args)
        return json_response(skew_account(skew_report(client, config, stream), limit))

    @blueprint.get("/v1/streams/<stream>/events")
    def read_events(stream: str) -> Response:
        known = config.streams[known_name("stream", stream, config.streams)]
        events = newest_events(client, known, event_limit(request.args))
        return json_response({"events": [event_account(event) for event in events]})

    @blueprint.get("/v1/streams/<stream>/raw")
    def read_raw(stream: str) -> Response:
        known = config.streams[known_name("stream", stream, config.streams)]
        asked = raw_request(request.args, known, redis_time_ms(client))
        page = raw_page(
            client,
            known,
            asked.partition,
            limit=asked.limit,
            after=asked.after,
            start_ms=asked.start_ms,
            end_ms=asked.end_ms,
        )
        return json_response(raw_account(asked.partition, page))

    @blueprint.get("/v1/tables/<hash>")
    def read_table(hash: str) -> Response:
        no_parameters(request.args)
        try:
            if CONTENT_HASH.fullmatch(hash) is None:
                raise MissingTableError(hash)
            return Response(table_cache.stored(client, hash), content_type="application/vnd.apache.parquet")
        except MissingTableError:
            raise BadRequestError(
                f"there is no content '{hash:.80}' of a lookup table; it goes when no log names it any more",
                code="unknown_table",
                status=404,
            ) from None

    @blueprint.get("/v1/streams/<stream>/events/<entry>/explain")
    def explain_stored(stream: str, entry: str) -> Response:
        known = config.streams[known_name("stream", stream, config.streams)]
        asked = event_request(request.args, known, entry)
        found = explain_event(client, config, stream, asked.entry_id, asked.row, asked.partition)
        return json_response(event_json(found))


def _add_stages(blueprint: Blueprint, config: Config, client: redis.Redis) -> None:
    @blueprint.get("/v1/stages")
    def list_stages() -> Response:
        no_parameters(request.args)
        status = read_status(client, config)
        return json_response({"stages": [stage_account(stage) for stage in status.stages.values()]})

    @blueprint.get("/v1/stages/<stage>")
    def read_stage(stage: str) -> Response:
        known = config.stages[known_name("stage", stage, config.stages)]
        no_parameters(request.args)
        status = read_status(client, config, [config.stream_of(known).name])
        return json_response(stage_account(status.stages[stage]))
