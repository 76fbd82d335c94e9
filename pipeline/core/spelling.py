"""The end of a message about an unknown name: the nearest known one, or all of them.

Case is not compared, so `Status` finds `status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?`, or ` There are: a, b, c.` where no known name is near."""
    folded = {each.lower(): each for each in known}
    close = get_close_matches(name.lower(), folded, n=1)
    if close:
        return f" Did you mean '{folded[close[0]]}'?"
    return f" There are: {', '.join(folded.values())}." if folded else " There are none."
