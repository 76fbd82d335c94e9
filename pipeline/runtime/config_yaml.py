"""The text of a config file as plain values, with the line and column of every key and value.

A path (`("streams", "clicks", "time")`) names a place in it. Aliases are refused: 306 bytes of them expand to a million
nodes (FACTS 18).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pipeline.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # names and values; the parser takes 3 s for so many, and 40 s for those that fit into a megabyte
MAX_DEPTH = 20  # ours needs 6; the parser recurses
MAX_EXCERPT_LENGTH = 110  # a terminal's line, with the gutter
MAX_NUMBER_LENGTH = 30  # beyond it a number is text: Python refuses to read integers of thousands of digits

Path = tuple[str | int, ...]
Position = tuple[int, int]  # line, column, from 1

_PASSWORD = re.compile(r"(://)[^@/\s]*@")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")}


@dataclass(slots=True)
class Document:
    """A config file's values and where each stands; `problems` are messages about the text itself."""

    label: str
    lines: list[str]
    root: Any = None
    keys: dict[Path, Position] = field(default_factory=dict)
    values: dict[Path, Position] = field(default_factory=dict)
    problems: list[tuple[Position, str]] = field(default_factory=list)

    def position(self, path: Path, *, at_key: bool = False) -> Position:
        """Where `path` stands, or the nearest place above it that is in the file."""
        for end in range(len(path), -1, -1):
            here = path[:end]
            places = (self.keys, self.values) if at_key else (self.values, self.keys)
            for place in places:
                if here in place:
                    return place[here]
        return (1, 1)

    def message(self, position: Position, text: str) -> str:
        """Return `file:line:column: text`, the line, and a caret under the column."""
        line, column = position
        head = f"{self.label}:{line}:{column}: {text}"
        if line > len(self.lines) or not self.lines[line - 1].strip():
            return head
        excerpt, column = _cut(_PASSWORD.sub(r"\1***@", self.lines[line - 1]), column)
        gutter = f"{line:>5} | "
        return f"{head}\n{gutter}{excerpt}\n{' ' * (len(gutter) - 2)}| {' ' * (column - 1)}^"


def _cut(line: str, column: int) -> tuple[str, int]:
    """Return the part of a long line around a column, and the column in that part."""
    if len(line) <= MAX_EXCERPT_LENGTH:
        return line, column
    start = max(0, column - MAX_EXCERPT_LENGTH // 2)
    return line[start : start + MAX_EXCERPT_LENGTH], column - start


def path_text(path: Path) -> str:
    """`stages.clicks.group_by[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def message_at(path: str, place: Path, sentence: str) -> str:
    """A problem that was found outside the file, at the place in it that it is about."""
    document = open_document(path)
    return document.message(document.position(place), f"{path_text(place)}: {sentence}")


def open_document(path: str) -> Document:
    """Read and parse a config file.

    Raises:
        ConfigError: it cannot be read, or is not one YAML document within the bounds.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}. --config says which file to read."]) from error
    return read_document(data, path)


def read_document(data: bytes, label: str) -> Document:
    """Parse YAML 1.2; duplicate keys and odd keys are listed in `problems`.

    Raises:
        ConfigError: the bytes are not one readable YAML document within the bounds.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError([f"{label}: the file has {len(data):,} bytes; a config file has at most {MAX_BYTES:,}."])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"{label}:{line}:1: the file is not UTF-8 (byte {error.start}). Save it as UTF-8."
        raise ConfigError([problem]) from error
    document = Document(label, text.splitlines())
    try:
        node = _compose(text, document)
    except YAMLError as error:
        raise ConfigError([_syntax_message(document, error)]) from error
    if node is None:
        raise ConfigError([f"{label}:1:1: the file is empty. `streams:` is where a config begins."])
    document.root = _value(document, node, ())
    return document


def _compose(text: str, document: Document) -> Node | None:
    _refuse_what_grows(YAML(typ="rt", pure=True).parse(text), document)
    node: Node | None = YAML(typ="rt", pure=True).compose(text)
    return node


def _refuse_what_grows(events: Iterable[Any], document: Document) -> None:
    """Read the events one by one and stop at the first that is out of bounds, before anything is built of them."""
    depth = count = 0
    for event in events:
        count += isinstance(event, ScalarEvent)
        position = (event.start_mark.line + 1, event.start_mark.column + 1)
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise ConfigError([document.message(position, "aliases (*name) are not allowed. Write the value out.")])
        if depth > MAX_DEPTH:
            raise ConfigError([document.message(position, f"the file is nested more than {MAX_DEPTH} deep.")])
        if count > MAX_VALUES:
            raise ConfigError(
                [document.message(position, f"the file holds more than {MAX_VALUES:,} names and values.")]
            )


def _syntax_message(document: Document, error: YAMLError) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        position = (error.problem_mark.line + 1, error.problem_mark.column + 1)
        if error.problem == "but found another document":
            return document.message(position, "a second document begins here; a file holds one. Remove the `---`.")
        while_doing = f" ({error.context})" if error.context else ""
        return document.message(position, f"this is not YAML: {error.problem}{while_doing}.")
    reason = str(error).splitlines()[0]
    return f"{document.label}:1:1: this is not YAML: {reason}."


def _position(node: Node) -> Position:
    return (node.start_mark.line + 1, node.start_mark.column + 1)


def _value(document: Document, node: Node, path: Path) -> Any:
    if not isinstance(node, ScalarNode) or node.value or node.style:
        document.values[path] = _position(node)  # a value that is not written has no place: its key stands for it
    if str(node.tag) not in _TAGS:
        document.problems.append((_position(node), f"{path_text(path)}: tags ({node.tag}) are not allowed."))
        return None
    if isinstance(node, MappingNode):
        return dict(_entries(document, node, path))
    if isinstance(node, SequenceNode):
        return [_value(document, item, (*path, index)) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    return _scalar(node)


def _entries(document: Document, node: MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
    for key_node, value_node in node.value:
        position = _position(key_node)
        if not isinstance(key_node, ScalarNode):
            document.problems.append((position, f"{path_text(path) or 'top level'}: a name must be plain text."))
            continue
        name = str(key_node.value)
        here = (*path, name)
        if here in document.keys:
            line, column = document.keys[here]
            again = f"{path_text(here)}: is here twice; the first is at {line}:{column}. Remove one."
            document.problems.append((position, again))
            continue
        document.keys[here] = position
        yield name, _value(document, value_node, here)


def _scalar(node: ScalarNode) -> str | int | float | bool | None:
    """Read a scalar as YAML 1.2 does: 012 is 12, NO and 1:30 are text; dates stay text too."""
    # ruamel marks where a folded text (`>`) was folded with BEL; a BEL of one's own cannot stand in one.
    text = str(node.value).replace("\a", "") if node.style == ">" else str(node.value)
    kind = str(node.tag).rsplit(":", 1)[1]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind not in ("int", "float") or len(text) > MAX_NUMBER_LENGTH:
        return text
    digits = text.replace("_", "")
    if kind == "float":
        return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
    try:
        return int(digits, 0) if re.match(r"[-+]?0[xob]", digits) else int(digits)
    except ValueError:
        return text  # `0x_`: the resolver takes it for a number, and it is none
