"""The JSON Schema of config.yaml, built from the shapes that read it, for editors.

Invariant: what the loader takes, the schema takes. It is the coarser of the two: it knows settings, types and which go
together, and nothing of names, expressions or files, which `streamgauge check` looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.times import format_duration
from pipeline.runtime.config_shapes import (
    AggregateShape,
    DedupShape,
    FieldShape,
    StreamShape,
    TopShape,
    TransformShape,
    WindowShape,
)
from pipeline.runtime.config_streams import FIELD_NAME, FIELD_TYPE, STREAM_OR_STAGE_NAME
from pipeline.runtime.config_windows import KINDS, NEEDED_SETTINGS, SETTINGS_OF

SCHEMA_FILE = Path(__file__).with_name("config.schema.json")  # what is shipped; `make schema` writes it
DIALECT = "http://json-schema.org/draft-07/schema#"  # the one that the YAML server of editors reads
TITLE = "Streamgauge config.yaml"
REFERENCE = "#/definitions/{model}"
SHAPES = (StreamShape, AggregateShape, TransformShape)

Json = dict[str, Any]


def config_schema(descriptions: Mapping[str, str]) -> Json:
    """Return the schema; `descriptions` are by shape and setting: `StreamShape.partitions`."""
    top = TopShape.model_json_schema(ref_template=REFERENCE)
    definitions: Json = dict(top.pop("$defs", {}))
    for shape in SHAPES:
        schema = shape.model_json_schema(ref_template=REFERENCE)
        definitions |= schema.pop("$defs", {})
        definitions[shape.__name__] = schema
    for name, definition in {"TopShape": top, **definitions}.items():
        _tidy(name, definition, descriptions)
    _refine(top, definitions)
    return {"$schema": DIALECT, "title": TITLE, **top, "definitions": dict(sorted(definitions.items()))}


def described_settings() -> Iterator[str]:
    """Every `Shape.setting` there is."""
    schema = config_schema({})
    for name, definition in {"TopShape": schema, **schema["definitions"]}.items():
        yield from (f"{name}.{setting}" for setting in definition.get("properties", {}))


def _tidy(name: str, definition: Json, descriptions: Mapping[str, str]) -> None:
    """Leave out what pydantic adds for programmers; defaults are written as config.yaml has them."""
    definition.pop("title", None)
    definition.pop("description", None)
    for setting, schema in definition.get("properties", {}).items():
        schema.pop("title", None)
        default = schema.pop("default", None)
        if "$ref" in schema:
            definition["properties"][setting] = {"allOf": [schema]}  # draft 7 reads nothing beside a $ref
        elif default not in (None, [], {}):
            schema["default"] = format_duration(default) if _is_duration(schema, default) else default
        if f"{name}.{setting}" in descriptions:
            definition["properties"][setting]["description"] = descriptions[f"{name}.{setting}"]


def _is_duration(schema: Json, default: object) -> bool:
    kinds = [schema.get("type"), *(each.get("type") for each in schema.get("anyOf", ()))]
    return isinstance(default, int) and not isinstance(default, bool) and not {"integer", "boolean"} & set(kinds)


def _refine(top: Json, definitions: Json) -> None:
    """Say what pydantic is not told: names, the two kinds of stages, and what goes with which kind of window."""
    streams, stages = top["properties"]["streams"], top["properties"]["stages"]
    streams |= _named(STREAM_OR_STAGE_NAME.pattern, _reference("StreamShape")) | {"minProperties": 1}
    is_aggregate = {"anyOf": [{"required": ["window"]}, {"required": ["aggregates"]}]}
    stage = {"if": is_aggregate, "then": _reference("AggregateShape"), "else": _reference("TransformShape")}
    stages["anyOf"][0] |= _named(STREAM_OR_STAGE_NAME.pattern, {"type": "object", **stage})
    definitions["DedupShape"]["required"] = ["key"]
    fields = definitions["StreamShape"]["properties"]["schema"]
    fields |= _named(FIELD_NAME.pattern, _reference(FieldShape.__name__)) | {"minProperties": 1}
    field_type = {"type": "string", "pattern": rf"^\s*(?:{FIELD_TYPE})\s*$"}
    field = definitions[FieldShape.__name__]
    field["properties"]["type"] |= field_type
    definitions[FieldShape.__name__] = {"anyOf": [field_type, field]}
    definitions[DedupShape.__name__]["required"] = ["key"]
    derived = definitions["TransformShape"]["properties"]["derive"]
    derived |= _named(FIELD_NAME.pattern, derived["additionalProperties"])
    aggregates = definitions["AggregateShape"]["properties"]["aggregates"]
    aggregates |= _named(FIELD_NAME.pattern, {"type": "string"}) | {"minProperties": 1}
    definitions[WindowShape.__name__] |= {"oneOf": [_window(kind) for kind in KINDS]}


def _window(kind: str) -> Json:
    allowed = {name: {"type": "string"} for name in (kind, *SETTINGS_OF[kind])}
    return {
        "properties": allowed,
        "additionalProperties": False,
        "required": [kind, *NEEDED_SETTINGS.get(kind, ())],
    }


def _named(pattern: str, schema: Json) -> Json:
    return {"type": "object", "patternProperties": {f"^{pattern}$": schema}, "additionalProperties": False}


def _reference(model: str) -> Json:
    return {"$ref": REFERENCE.format(model=model)}
