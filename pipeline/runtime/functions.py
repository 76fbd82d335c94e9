"""The files of `functions:`: Python files that register functions, executed once in a process for each text of theirs.

What an earlier config registered and this one does not name is forgotten, so two configs read in one process do not
meet. A function file stands alone: it may import what is installed, not files beside it, since `up` runs a copy of it.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from pipeline.core import registry
from pipeline.core.registered_transforms import TRANSFORMS

_executed: dict[str, bytes] = {}  # path → the text that was executed


class FunctionsError(ValueError):
    """A file of functions that cannot be used: a sentence with its name and the line."""


def path_of(folder: Path, name: str) -> Path:
    """Where a file of functions is.

    Raises:
        FunctionsError: not below the config file's folder, or not a Python file.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".py":
        raise FunctionsError(
            f"'{name}' must be a .py file below the folder of the config file, written relative to it."
        )
    return folder / path


def load_functions(folder: Path, names: Sequence[str]) -> Mapping[str, FunctionsError]:
    """Execute the files that were not yet, or have another text now; return the error of each that has one."""
    errors: dict[str, FunctionsError] = {}
    paths: dict[str, Path] = {}
    for name in names:
        try:
            paths[name] = path_of(folder, name)
        except FunctionsError as error:
            errors[name] = error
    _forget(set(_executed) - {str(path) for path in paths.values()})
    for name, path in paths.items():
        try:
            _load(path)
        except FunctionsError as error:
            errors[name] = error
    return errors


def _forget(files: set[str]) -> None:
    for name in [name for name, known in TRANSFORMS.items() if known.file in files]:
        del TRANSFORMS[name]
    for name in [name for name, known in registry.aggregates.items() if known.file in files]:
        del registry.aggregates[name]
    for file in files:
        _executed.pop(file, None)


def _load(path: Path) -> None:
    file = str(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FunctionsError(f"{path}: cannot be read: {error.strerror}.") from error
    if _executed.get(file) == source:
        return
    _forget({file})
    module = ModuleType(f"streamgauge_functions.{path.stem}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and pickles look a function's module up by its name
    linecache.checkcache(file)  # the source of a function is hashed: the text on disk, not one read before
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except SyntaxError as error:
        raise FunctionsError(f"{path}:{error.lineno or 1}: this is not Python: {error.msg}.") from error
    except Exception as error:  # a user's file: whatever it raises is a problem of the config
        _forget({file})
        raise FunctionsError(f"{path}:{_line(error, file)}: {type(error).__name__}: {error}") from error
    _executed[file] = source


def _line(error: Exception, file: str) -> int:
    """The last line of the file that the error passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno or 1 for frame in reversed(frames) if frame.filename == file), 1)
