"""What type the finished value of an aggregate has: what `select` computes with, and what the API says."""

from __future__ import annotations

from pipeline.core.definitions import BuiltInFunction
from pipeline.core.registry import aggregates as registered

_OF_THE_FIELD = "field"
_TYPES: dict[BuiltInFunction, str] = {
    "count": "int",
    "sum": _OF_THE_FIELD,
    "mean": "float",
    "min": _OF_THE_FIELD,
    "max": _OF_THE_FIELD,
    "first": _OF_THE_FIELD,
    "last": _OF_THE_FIELD,
    "var": "float",
    "stddev": "float",
    "quantile": "float",
    "histogram": "list",
    "distinct": "int",
    "distinct_exact": "int",
    "topk": "list",
    "increase": _OF_THE_FIELD,
    "rate": "float",
    "time_weighted_mean": "float",
}


def value_type(function: str, field_type: str | None) -> str:
    """Return `int`, `float`, `string`, `bool`, `timestamp` or `list`; `field_type` None: of no field, as `count`."""
    if function in registered:
        return registered[function].returns
    found = next(kind for name, kind in _TYPES.items() if name == function)
    if found != _OF_THE_FIELD:
        return found
    assert field_type is not None, f"{function} reads a field"
    return field_type
