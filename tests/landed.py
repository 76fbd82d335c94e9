"""What the pipeline has of issue 3, while it is being built: a test of the rest is skipped and says what it waits for.

A part is turned on by adding its name here, nowhere else. When all are in, this module and its uses go.
"""

from __future__ import annotations

from typing import Literal, get_args

import pytest

from pipeline.core.definitions import AGGREGATE_FUNCTIONS

Kind = Literal["tumbling", "hopping", "cumulating", "calendar", "session"]
Feature = Literal["allowed_lateness", "where", "select", "on_update", "explain", "config"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEATURES: tuple[Feature, ...] = get_args(Feature)

LANDED_KINDS: tuple[Kind, ...] = ("tumbling", "hopping", "cumulating", "calendar", "session")
LANDED_FUNCTIONS: tuple[str, ...] = AGGREGATE_FUNCTIONS
LANDED_FEATURES: tuple[Feature, ...] = ("allowed_lateness", "where", "select", "on_update", "explain", "config")
"""`config`: config.yaml takes all of it."""


def has(*names: str) -> bool:
    """Whether the pipeline has all of these kinds, functions and features."""
    return set(names) <= {*LANDED_KINDS, *LANDED_FUNCTIONS, *LANDED_FEATURES}


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test while one of these is missing."""
    missing = [name for name in names if not has(name)]
    return pytest.mark.skipif(bool(missing), reason=f"waits for {', '.join(missing)} (tests/landed.py)")
