"""Streamgauge's pipeline; from here come the decorators that register a user's own functions (DESIGN section 11)."""

from pipeline.core.registered_transforms import transform
from pipeline.core.registry import aggregate

__all__ = ["aggregate", "transform"]
