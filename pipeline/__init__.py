"""Streamgauge's pipeline; from here come `batch`, which recomputes any number without Redis, and the decorators that
register a user's own functions (DESIGN section 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.core.registered_transforms import transform
from pipeline.core.registry import aggregate

if TYPE_CHECKING:
    from pipeline.runtime.batch_run import batch

__all__ = ["aggregate", "batch", "transform"]


def __getattr__(name: str) -> Any:
    """Import `batch` when it is asked for: a file of registered functions is imported by every worker."""
    if name == "batch":
        from pipeline.runtime.batch_run import batch

        return batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
