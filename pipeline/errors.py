"""Every error a user or a caller can meet, one class per meaning; the message says what, where, and the way out."""

from __future__ import annotations


class StreamgaugeError(Exception):
    """The root: catch this to catch everything this product raises on purpose."""


class ConfigError(StreamgaugeError):
    """The config file cannot be used; `problems` holds one full message each, with file:line:column."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return ConfigError, (self.problems,)


class RegistrationError(StreamgaugeError):
    """An aggregate in Python cannot be registered as it stands; the message says what it lacks."""


class UserCodeError(StreamgaugeError):
    """A registered function raised, or returned what it may not; `name` is the registered one's, `step` the part of it.

    The user's own exception, with its traceback, is the `__cause__`.
    """

    def __init__(self, name: str, step: str, problem: str) -> None:
        self.name = name
        self.step = step
        self.problem = problem
        super().__init__(f"{name}.{step}: {problem}")

    def __reduce__(self) -> tuple[type[UserCodeError], tuple[str, str, str]]:
        return UserCodeError, (self.name, self.step, self.problem)


class BadRequestError(StreamgaugeError):
    """A request that cannot be answered as it stands; `code` names the rule, `status` is the HTTP status."""

    def __init__(self, message: str, *, code: str = "bad_request", status: int = 400) -> None:
        self.code = code
        self.status = status
        super().__init__(message)


class ServerUnfitError(StreamgaugeError):
    """The Redis server cannot keep the promises; the message says which setting to change."""


class BackpressureError(StreamgaugeError):
    """The backlog or the memory is full; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TooManyReadersError(BackpressureError):
    """Every place for a live reader is taken."""


class FenceError(StreamgaugeError):
    """Another worker or a rollback moved on: nothing was written; load the state again."""


class TornError(StreamgaugeError):
    """A commit was cut off in the middle, or a key of the state was deleted: the partition needs a rebuild."""


class MissingTableError(StreamgaugeError):
    """A lookup table's content that the log names is not there: it was deleted, or never stored."""


class ForeignKeyError(StreamgaugeError):
    """A key of ours holds another type: something else writes to this Redis. Nothing was written."""


class FrameError(StreamgaugeError):
    """A DataFrame does not fit a stream's schema: the message names the column, the row and the value."""


class LogTrimmedError(StreamgaugeError):
    """The log was trimmed while it was read, further than the reader had come; start again at the new cut."""
