"""What users register by name: aggregates written in Python."""

from __future__ import annotations

from typing import Any

AGGREGATES: dict[str, Any] = {}
