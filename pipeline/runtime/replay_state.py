"""How far a replay has come, in a file of the user's state folder.

Invariant: `rows_done` rows are stored for certain; the batch after them may be, and its idempotency key is the same
when it is sent again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

HASH_BLOCK_BYTES = 1 << 20


class ReplayProgress(msgspec.Struct, frozen=True):
    """What one replay of one file into one stream of one API has done so far."""

    file: str
    stream: str
    url: str
    batch_rows: int  # with `speed`, decides where batches are cut: a resumed replay cuts as the first one did
    speed: float | None
    rows_done: int = 0
    finished: bool = False
    backfill: bool = False
    shift_ms: int = 0  # what was added to every event time: a resumed replay adds the same


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Where the progress of one (content, stream, URL) is kept."""

    path: Path
    content: str  # hash of the file's bytes, and of how they are read where that was said

    @classmethod
    def of(cls, file: Path, stream: str, url: str, folder: Path, read_as: Sequence[str] = ()) -> ReplayState:
        content = content_hash(file)
        if read_as:
            content = hashlib.sha256("\n".join((content, *read_as)).encode()).hexdigest()
        name = hashlib.sha256("\n".join((content, stream, url)).encode()).hexdigest()[:32]
        return cls(folder / f"{name}.json", content)

    def load(self) -> ReplayProgress | None:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=ReplayProgress)
        except (FileNotFoundError, msgspec.DecodeError):  # none, or of another version
            return None

    def save(self, progress: ReplayProgress) -> None:
        """Replace the file in one step: a crash leaves the old one or the new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(progress))
        fresh.replace(self.path)


def content_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return where the user's programs keep state (XDG base directories)."""
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "streamgauge" / "replay"
