"""What a content of a lookup table is called, and the error of one that cannot be used: `tables` without the tables."""

from __future__ import annotations

import hashlib

_HASH_BYTES = 16


class TableError(ValueError):
    """A table that a lookup cannot use: a sentence that says what is wrong with it."""


def content_hash(content: bytes) -> str:
    """The name of a content, in every log that is joined with it."""
    return hashlib.blake2b(content, digest_size=_HASH_BYTES).hexdigest()
