"""What goes wrong in the code of registered aggregates, said in the log once a process, aggregate and step."""

from __future__ import annotations

import structlog

from pipeline.core.programs import Program
from pipeline.core.sketch_user import UserPartials

log = structlog.get_logger(__name__)


def say_failures(program: Program) -> None:
    """Log what failed since this was last asked: the values it makes null are in `meta.failed` of an answer."""
    for sketch in program.layout.sketches:
        if isinstance(sketch, UserPartials):
            for step, error in sketch.problems.take().items():
                log.error("aggregate_failed", stage=program.name, aggregate=sketch.name, step=step, error=error)
