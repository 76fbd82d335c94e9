"""Random bodies of NDJSON, from what everybody sends to what nobody should: the input of the two readers of bodies.

Rows are written as text, not encoded from values, so that spaces, escapes, forms of numbers and of times vary; a
mutated body is broken somewhere.
"""

from __future__ import annotations

import json
from random import Random

from pipeline.core.definitions import Field, Stream, TimePolicy

FIELDS = (
    Field("ts", "timestamp", unit="ms"),
    Field("name", "string"),
    Field("note", "string", nullable=True),
    Field("count", "int"),
    Field("many", "int", nullable=True),
    Field("value", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("seen", "timestamp", nullable=True, unit="s"),
    Field("tags", "list", nullable=True, item="string"),
    Field("sizes", "list", nullable=True, item="float"),
)
STREAM = Stream("events", FIELDS, TimePolicy("ts"), partitions=5, partition_by="name")
ODD_NUMBERS = (
    *("-0", "-0.0", "0", "0.0", "1e5", "1E+5", "1e-5", "1.5e308", "2e308", "1e400", "01", "1.", ".5", "-", "1e", "00"),
    *("0.1e1", "123456789012345678", "1234567890123456789", "9223372036854775807", "9223372036854775808", "1.0"),
    *("-9223372036854775808", "4.9e-324", "1e-400", "2.50", "9007199254740993", "9007199254740993.0", "+1", "NaN"),
)
SPANS = ((1, 13), (1, 29), (0, 24), (0, 60), (0, 60))  # month, day, hour, minute, second
ODD_TIMES = ('"2024-02-30T00:00:00Z"', '"2024-01-01T24:00:00Z"', '"2024-01-01T00:00:60Z"', '"now"', "1.5", "-1", "1e12")
BREAKING = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b" ", b"\n", b"\r", b"0", b"e", b"\x80", b"\xff", b"\x00")


class Bodies:
    """Bodies of one seed; `oddness` is the share of values that are unusual."""

    def __init__(self, seed: int, oddness: float) -> None:
        self.chance = Random(seed)
        self.oddness = oddness

    def body(self) -> bytes:
        rows = [self._row() for _ in range(self.chance.randrange(1, 5))]
        body = "\n".join(rows).encode()
        return self._broken(body) if self._is_odd() else body

    def _is_odd(self) -> bool:
        return self.chance.random() < self.oddness

    def _row(self) -> str:
        space = self.chance.choice(["", "", " ", "\t", " \t"]) if self._is_odd() else ""
        given = [field for field in FIELDS if not field.nullable or self.chance.random() < 0.9]
        pairs = [(json.dumps(field.name), self._value(field)) for field in given]
        if self._is_odd():
            pairs.append((self._text(), self._anything(0)))
        if self._is_odd() and self.chance.random() < 0.2:
            pairs.append(self.chance.choice(pairs))
        if self._is_odd():
            self.chance.shuffle(pairs)
        return "{" + space + f"{space},{space}".join(f"{k}{space}:{space}{v}" for k, v in pairs) + space + "}"

    def _value(self, field: Field) -> str:
        if self._is_odd() and self.chance.random() < 0.1:
            return self._anything(0)
        if field.nullable and self.chance.random() < 0.1:
            return "null"
        if field.type == "list":
            items = (self._scalar(str(field.item)) for _ in range(self.chance.randrange(4)))
            return "[" + ",".join(items) + "]"
        return self._scalar(field.type)

    def _scalar(self, kind: str) -> str:
        match kind:
            case "string":
                return self._text()
            case "int":
                return (
                    self.chance.choice(ODD_NUMBERS) if self._is_odd() else str(self.chance.randrange(-(10**9), 10**9))
                )
            case "float":
                return self.chance.choice(ODD_NUMBERS) if self._is_odd() else self._float()
            case "bool":
                return self.chance.choice(["true", "false"])
            case _:
                return self._time()

    def _float(self) -> str:
        size = 10.0 ** self.chance.randrange(-300, 300) if self._is_odd() else 1.0
        return repr(self.chance.choice([self.chance.gauss(0, 1) * size, round(self.chance.random(), 2), 21]))

    def _text(self) -> str:
        chosen = "".join(self.chance.choice('abc /"\\\n\té€𝄞') for _ in range(self.chance.randrange(20)))
        if not self._is_odd():
            return json.dumps(chosen, ensure_ascii=self.chance.random() < 0.5)
        return self.chance.choice([f'"\\u{self.chance.randrange(65536):04x}"', '"\\ud83d\\ude00\\/\\b"', '"\\x"', '""'])

    def _time(self) -> str:
        if self._is_odd():
            return self.chance.choice(ODD_TIMES)
        if self.chance.random() < 0.5:
            return str(self.chance.randrange(10**9, 2 * 10**9))
        month, day, hour, minute, second = (self.chance.randrange(*span) for span in SPANS)
        year, between = self.chance.choice([2024, 1969, 1, 9999, 1900]), self.chance.choice("Tt ")
        moment = f"{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}"
        fraction = self.chance.choice(["", ".5", ".123", ".123456789", ".9999"])
        return f'"{moment}{fraction}{self.chance.choice(["Z", "z", "+00:00", "-05:30", "+23:59", ""])}"'

    def _anything(self, depth: int) -> str:
        kinds = ["text", "number", "word"] if depth == 3 else ["text", "number", "word", "object", "array"]
        match self.chance.choice(kinds):
            case "text":
                return self._text()
            case "number":
                return self.chance.choice(ODD_NUMBERS)
            case "word":
                return self.chance.choice(["true", "false", "null", "nul"])
            case "array":
                return "[" + ",".join(self._anything(depth + 1) for _ in range(self.chance.randrange(3))) + "]"
            case _:
                pairs = (f"{self._text()}:{self._anything(depth + 1)}" for _ in range(self.chance.randrange(3)))
                return "{" + ",".join(pairs) + "}"

    def _broken(self, body: bytes) -> bytes:
        for _ in range(self.chance.randrange(1, 3)):
            at = self.chance.randrange(len(body) + 1)
            match self.chance.randrange(4):
                case 0:
                    body = body[:at] + bytes([self.chance.randrange(256)]) + body[at + 1 :]
                case 1:
                    body = body[:at] + body[at + 1 :]
                case 2:
                    body = body[:at] + self.chance.choice(BREAKING) + body[at:]
                case _:
                    body = body[:at]
        return body
