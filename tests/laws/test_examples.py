"""Laws try few examples in `make test`; the run that tries all of them is `make faults`, and it selects every law."""

from __future__ import annotations

import re

import pytest

from tests.examples import asks_for_laws
from tests.test_layout import ROOT


def marks_of(target: str) -> str:
    """The `-m` of a target of the Makefile."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    found = re.search(r'-m "([^"]+)"', recipe[1])
    return found[1] if found is not None else ""


def test_make_faults_tries_every_law_in_full_and_make_test_does_not() -> None:
    assert asks_for_laws(marks_of("faults"))
    assert not asks_for_laws(marks_of("test") or "not slow")


@pytest.mark.parametrize("expression", ["", "not slow", "not hypothesis", "faults or slow"])
def test_other_runs_try_a_few(expression: str) -> None:
    assert not asks_for_laws(expression)
