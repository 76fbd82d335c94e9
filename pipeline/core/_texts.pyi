from collections.abc import Sequence
from typing import Any

def pack(
    views: Any, texts: Sequence[Any], validity: Any | None, places: Any | None, first: int, count: int, /
) -> tuple[int, bytes | None, int, bytes | None, bytes, bytes]: ...
