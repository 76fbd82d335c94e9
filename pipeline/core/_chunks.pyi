from typing import Any

Fields = tuple[tuple[str, str, bool], ...]  # name, kind, nullable

def columns(
    bodies: list[bytes], counts: list[int], fields: Fields, /
) -> tuple[tuple[int, bytes | None, bytes, bytes | None], ...] | None: ...
def rows(body: bytes, count: int, fields: Fields, places: Any, /) -> list[list[Any]] | None: ...
