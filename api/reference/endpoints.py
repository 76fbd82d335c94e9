"""How an endpoint is described: its parameters, its body and its answers, as values that the document is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Schema = Mapping[str, Any]

JSON = "application/json"
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
FLAG: Schema = {"type": "string", "enum": ["true", "false"]}
OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "examples": ["-15m", "now-1h", "2026-05-17T10:05:00Z", "1763928000000"]}
NUMBER_OR_NULL: Schema = {"type": ["integer", "null"]}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query, or part of the path."""

    name: str
    description: str
    schema: Schema = field(default_factory=lambda: TEXT)
    place: Literal["query", "path", "header"] = "query"
    required: bool = False
    example: Any = None

    def described(self) -> dict[str, Any]:
        example = {} if self.example is None else {"example": self.example}
        about = {"name": self.name, "in": self.place, "description": self.description, "schema": dict(self.schema)}
        return about | {"required": self.required or self.place == "path"} | example


@dataclass(frozen=True, slots=True)
class Body:
    """What an answer or a request carries: a schema by content type."""

    contents: Mapping[str, Schema]
    example: Any = None

    def described(self) -> dict[str, Any]:
        example = {} if self.example is None else {"example": self.example}
        return {
            kind: {"schema": dict(schema)} | (example if kind == JSON else {}) for kind, schema in self.contents.items()
        }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path; `problems` are the statuses it answers with besides those of every endpoint."""

    method: Literal["get", "post"]
    path: str
    tag: str
    summary: str
    description: str
    answer: Body
    parameters: Sequence[Parameter] = ()
    status: int = 200
    body: Body | None = None
    problems: Sequence[int] = ()
    has_etag: bool = False


def json_body(schema: Schema, example: Any = None) -> Body:
    return Body({JSON: schema}, example)


def members(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object that has certain members, and may have others."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def array(of: Schema) -> Schema:
    return {"type": "array", "items": dict(of)}
