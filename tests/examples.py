"""How many examples a law tries: a few in `make test`, all of them in a run that asks for laws, as `make faults` does.

Nothing but the number differs: the law is the same function, and in CI the few are the same ones each time.
"""

from __future__ import annotations

import re

MARK = "hypothesis"  # hypothesis's own mark of its tests
_whole = False


def ask(mark_expression: str) -> None:
    """Read from pytest's `-m` how many are wanted; before any law is defined."""
    global _whole
    _whole = asks_for_laws(mark_expression)


def asks_for_laws(mark_expression: str) -> bool:
    return re.search(rf"(?<!not )\b{MARK}\b", mark_expression) is not None


def examples(few: int, *, whole: int) -> int:
    return whole if _whole else few
