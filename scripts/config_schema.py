"""Writes `pipeline/runtime/config.schema.json`, which editors and `streamgauge schema` read: `make schema`.

Invariant: a setting's description is its row in docs/configuration.md, so there is one place to write it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.runtime.config_schema import SCHEMA_FILE, config_schema

ROOT = Path(__file__).resolve().parent.parent
PREFIXES = {
    ("The file", ""): "TopShape",
    ("The file", "redis."): "RedisShape",
    ("A stream", ""): "StreamShape",
    ("A stream", "time."): "TimeShape",
    ("A stream", "retention."): "StreamRetentionShape",
    ("A stream", "dedup."): "DedupShape",
    ("A stream", "schema.<field>."): "FieldShape",
    ("A transform", ""): "TransformShape",
    ("A transform", "lookup.<name>."): "LookupShape",
    ("An aggregate", ""): "AggregateShape",
    ("An aggregate", "window."): "WindowShape",
}


def described(page: str) -> dict[str, str]:
    """`Shape.setting` → what its row of the page says."""
    found = {}
    for title, text in re.findall(r"^## (A \w+|An \w+|The file)(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL):
        for setting, what in re.findall(r"^\| `([^`]+)` \| [^|]+ \| (.+) \|$", text, re.MULTILINE):
            prefix, _, name = setting.rpartition(".")
            shape = PREFIXES[title, f"{prefix}." if prefix else ""]
            found[f"{shape}.{name}"] = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", what)
    return found


def schema_text() -> str:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    return json.dumps(config_schema(described(page)), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), "utf-8")
