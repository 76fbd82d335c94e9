"""The columns that reach a stage, as far as the problems of what it reads let them be known.

Invariant: a name that may be there because of a problem reported elsewhere is never called unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from pipeline.core.expressions import ExpressionError, expression_names, unknown_name


@dataclass(frozen=True, slots=True)
class Columns:
    """`known` by type; `failed` are reported where they are made; where it is `open` there may be others."""

    known: Mapping[str, pl.DataType]
    failed: frozenset[str] = frozenset()
    open: bool = False

    def may_hold(self, name: str) -> bool:
        """True where a name that is not known may be there all the same."""
        return name not in self.known and (self.open or name in self.failed)

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of the names that are certainly not there."""
        return [name for name in sorted(names) if name not in self.known and not self.may_hold(name)]

    def uncertain(self, names: Iterable[str]) -> bool:
        """True where what is made of these names cannot be checked."""
        return any(self.may_hold(name) for name in names)


def is_uncertain(text: str, columns: Columns) -> bool:
    """True where an expression reads a field with a problem of its own; one that is nowhere is told all the same.

    Raises:
        ExpressionError: it does not parse, or reads what is certainly not there beside what may be.
    """
    names = expression_names(text)
    if not columns.uncertain(names):
        return False
    for name in columns.unknown(names):
        raise ExpressionError(unknown_name(name, columns.known))
    return True
