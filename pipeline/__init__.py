"""Streamgauge's pipeline; `from pipeline import transform` registers a Python function that stages may call by name."""

from pipeline.core.registered_transforms import transform

__all__ = ["transform"]
