"""What users register by name: aggregates written in Python, each with the hash of its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RegisteredAggregate:
    """An object with lift, merge and finish; `returns` is the type of what it finishes to."""

    function: Any
    source_hash: str
    returns: str


aggregates: dict[str, RegisteredAggregate] = {}
