"""The values of query parameters, one kind each: names, times, durations, numbers, as a URL carries them.

Invariant: nothing given is ignored. A parameter that is unknown or given twice is refused by its name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from werkzeug.datastructures import MultiDict

from pipeline.core.spelling import did_you_mean
from pipeline.core.times import parse_duration_ms, parse_time_ms
from pipeline.errors import BadRequestError

Arguments = MultiDict[str, str]

WHERE = "where."
PLUS_HINT = "A + in a URL means a space; write it %2B."

_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_BOOLS = {"true": True, "false": False}


def check_names(args: Arguments, allowed: Sequence[str], *, where: bool = False) -> None:
    """Refuse parameters that are not `allowed`, or given twice; `where.<field>` may be.

    Raises:
        BadRequestError: 400, with the nearest name there is.
    """
    for name, values in args.lists():
        if where and name.startswith(WHERE):
            continue
        if where and name == WHERE.rstrip("."):
            message = f"where: say which field, such as {WHERE}<field>={shown(values[0])}"
            raise BadRequestError(message, code="unknown_parameter")
        if name not in allowed:
            known = (*allowed, *((f"{WHERE}<field>",) if where else ()))
            raise BadRequestError(
                f"there is no parameter '{shown(name)}' here.{did_you_mean(name, known)}", code="unknown_parameter"
            )
        if len(values) > 1:
            raise BadRequestError(f"'{name}' is given {len(values)} times; give it once", code="repeated_parameter")


def time_value(args: Arguments, name: str, now_ms: int) -> int | None:
    text = args.get(name)
    if text is None:
        return None
    try:
        return parse_time_ms(_plus_sign(text), now_ms)
    except ValueError as error:
        hint = f" {PLUS_HINT}" if " " in text else ""
        raise BadRequestError(f"{name}: {error}{hint}", code="bad_time") from None


def _plus_sign(text: str) -> str:
    """An unescaped `+` of an offset or of now+5m arrives as a space, which has no other meaning in those places."""
    head, space, tail = text.strip().rpartition(" ")
    is_offset = space and len(tail) == len("00:00") and "T" in head.upper()
    return f"{head}+{tail}" if is_offset or head == "now" else text


def duration_value(args: Arguments, name: str) -> int | None:
    text = args.get(name)
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise BadRequestError(f"{name}: {error}", code="bad_duration") from None


def int64_value(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and _MIN_INT <= int(text) <= _MAX_INT):
        raise ValueError(f"'{shown(text)}' is not a whole number of 64 bits")
    return int(text)


def bool_value(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(f"'{shown(text)}' is neither true nor false")
    return _BOOLS[text]


def fixed_time(text: str) -> int:
    if text.startswith(("now", "+")) or (text.startswith("-") and not text[1:].isdigit()):
        raise ValueError(f"'{shown(text)}' moves with the clock; write RFC 3339 or an epoch number")
    return parse_time_ms(_plus_sign(text), 0)


def whole_number(args: Arguments, name: str, default: int, most: int) -> int:
    text = args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise BadRequestError(f"{name}: '{shown(text)}' is not a whole number from 1 to {most}", code=f"bad_{name}")
    return int(text)


def shown(text: str) -> str:
    """What a client sent, short enough for a message."""
    return text if len(text) <= 60 else f"{text[:60]}…"


def name_list(args: Arguments, name: str, known: Collection[str], what: str) -> tuple[str, ...] | None:
    """Names between commas, in the order `known` has them; none of them for the empty text.

    Raises:
        BadRequestError: 400, a name is unknown or given twice.
    """
    text = args.get(name)
    if text is None:
        return None
    given = text.split(",") if text else []
    for each in given:
        if each not in known:
            raise BadRequestError(
                f"{name}: '{shown(each)}' is no {what}.{did_you_mean(each, known)}", code="unknown_field"
            )
    if len(set(given)) < len(given):
        raise BadRequestError(f"{name}: '{shown(text)}' names a {what} twice; name each once", code=f"bad_{name}")
    return tuple(each for each in known if each in given)


def flag(args: Arguments, name: str) -> bool:
    """The parameter `name`, true or false."""
    try:
        return bool_value(args.get(name, "false"))
    except ValueError as error:
        raise BadRequestError(f"{name}: {error}", code=f"bad_{name}") from None
