"""The ETag of a metric's answer, told without computing the answer: what was asked, and the state it depends on.

Invariant: an answer that would differ has another tag. It is weak, since what is committed while an answer is computed
may be in it; the next state, and so the next tag, has it too.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from flask import Response

from pipeline.core.programs import Program
from pipeline.runtime.metric_state import MetricState

ANSWER_FORMAT = 1  # raise when the same state would be answered differently
_DIGEST_BYTES = 12


def etag(program: Program, state: MetricState, *asked: Any) -> str:
    """The opaque part of the tag: version, number of publications (a revision is one), and a hash of all the rest."""
    definition = msgspec.json.encode((program.stream, program.stage))
    question = msgspec.json.encode((ANSWER_FORMAT, asked), enc_hook=repr)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in (definition, question, state.text):
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"{program.version}.{state.publications}.{digest.hexdigest()}"


def tagged(response: Response, tag: str) -> Response:
    """The answer under its tag; caches ask again each time."""
    response.set_etag(tag, weak=True)
    response.headers["Cache-Control"] = "no-cache"
    return response


def unchanged(tag: str) -> Response:
    """304: what the client has is still the answer."""
    return tagged(Response(status=304), tag)
