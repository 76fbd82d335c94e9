"""Columns of names: many byte strings without a Python object each (`_names.c`), and what is done to all of them.

Invariant: a column of names is a sequence of bytes like any other; without the native part it takes longer, no more.

    data     ...["ada"]["bob"]...         name i is data[starts[i]:ends[i]]
    starts      3      10
    ends        10     17
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

try:
    from pipeline.core import _names
except ImportError:  # not built: no C compiler where it was installed
    IS_BUILT = False
else:
    IS_BUILT = True

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Column = tuple[bytes, Int64, Int64]  # data, starts, ends


class Names(Sequence[bytes]):
    """Names that never change; what is taken of them shares their data."""

    __slots__ = ("data", "ends", "starts")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, data: bytes, starts: Int64, ends: Int64) -> None:
        self.data = data
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Names:
        """A column of what may be one already."""
        if isinstance(names, Names):
            return names
        listed = list(names)
        ends = np.cumsum(np.fromiter(map(len, listed), np.int64, len(listed)), dtype=np.int64)
        return cls.one_after_the_other(b"".join(listed), ends)

    @classmethod
    def one_after_the_other(cls, data: bytes, ends: Int64) -> Names:
        """The names whose ends are these, the first at the beginning of the data."""
        starts = np.zeros(len(ends), dtype=np.int64)
        starts[1:] = ends[:-1]
        return cls(data, starts, ends)

    @classmethod
    def of_width(cls, data: bytes, width: int) -> Names:
        """Names of so many bytes each."""
        return cls.one_after_the_other(data, np.arange(width, len(data) + 1, width, dtype=np.int64))

    @classmethod
    def together(cls, columns: Sequence[Names]) -> Names:
        """The names of some columns, one column after the other."""
        if len(columns) == 1:
            return columns[0]
        packed = [names.packed() for names in columns]
        sizes = np.cumsum([0, *(len(data) for data, _ in packed)], dtype=np.int64).tolist()
        ends = [of + size for (_, of), size in zip(packed, sizes, strict=False)]
        every = np.concatenate(ends) if ends else np.empty(0, dtype=np.int64)
        return cls.one_after_the_other(b"".join(data for data, _ in packed), every)

    @property
    def column(self) -> Column:
        return self.data, np.ascontiguousarray(self.starts), np.ascontiguousarray(self.ends)

    def packed(self) -> tuple[bytes, Int64]:
        """Their data one after the other, and the end of each."""
        if not len(self.ends):
            return b"", self.ends
        if self.starts[0] == 0 and self.ends[-1] == len(self.data) and (self.starts[1:] == self.ends[:-1]).all():
            return self.data, self.ends
        return _joined([self], len(self))

    def begin_with(self, prefix: bytes) -> bool:
        """Whether all of them do."""
        if not len(self.ends):
            return True
        if not (self.ends - self.starts >= len(prefix)).all():
            return False
        data = np.frombuffer(self.data, np.uint8)
        return all(bool((data[self.starts + at] == byte).all()) for at, byte in enumerate(prefix))

    def without(self, n_bytes: int) -> Names:
        """Each without so many bytes at its beginning, which it has."""
        return Names(self.data, self.starts + n_bytes, self.ends)

    def taken(self, places: npt.NDArray[Any] | slice) -> Names:
        """Those at some places, or where a mask says so."""
        return Names(self.data, self.starts[places], self.ends[places])

    def order(self) -> Int64:
        """Their places in order of their bytes, equal ones as they stand."""
        if IS_BUILT:
            return np.frombuffer(_names.order(*self.column), dtype=np.int64)
        listed = self.tolist()
        return np.array(sorted(range(len(listed)), key=listed.__getitem__), dtype=np.int64)

    def tolist(self) -> list[bytes]:
        data = self.data
        return [data[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> Names: ...
    def __getitem__(self, place: int | slice) -> bytes | Names:
        if isinstance(place, slice):
            return self.taken(place)
        return self.data[self.starts[place] : self.ends[place]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.tolist() == list(other)

    def __repr__(self) -> str:
        return f"Names({self.tolist()!r})"


def joined(parts: Sequence[bytes | Names], count: int) -> Names:
    """Row by row the parts, one after the other: bytes are the same in every row."""
    return Names.one_after_the_other(*_joined(parts, count))


def _joined(parts: Sequence[bytes | Names], count: int) -> tuple[bytes, Int64]:
    if IS_BUILT:
        data, ends = _names.joined([part if isinstance(part, bytes) else part.column for part in parts], count)
        return data, np.frombuffer(ends, dtype=np.int64)
    rows = list(map(b"".join, zip(*_rows_of(parts, count), strict=True)))
    return b"".join(rows), np.cumsum([len(row) for row in rows], dtype=np.int64)


def arguments(columns: Sequence[bytes | Names], count: int) -> bytes:
    """Row by row the names of some columns, as Redis takes the arguments of a command."""
    if IS_BUILT:
        return _names.arguments([part if isinstance(part, bytes) else part.column for part in columns], count)
    rows = zip(*_rows_of(columns, count), strict=True)
    return b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for row in rows for name in row)


def _rows_of(parts: Sequence[bytes | Names], count: int) -> list[list[bytes]]:
    return [[part] * count if isinstance(part, bytes) else part.tolist() for part in parts]


class Directory:
    """Names by number, in the order they came first."""

    __slots__ = ("_listed", "_native", "_numbers")

    def __init__(self) -> None:
        self._native = _names.Directory() if IS_BUILT else None
        self._numbers: dict[bytes, int] = {}
        self._listed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._listed) if self._native is None else len(self._native)

    def numbers(self, names: Names) -> Int32:
        """The number of each name; new ones are added."""
        if self._native is not None:
            return np.frombuffer(self._native.numbers(*names.column), dtype=np.int32)
        found = np.empty(len(names), dtype=np.int32)
        for place, name in enumerate(names):
            number = self._numbers.setdefault(name, len(self._listed))
            if number == len(self._listed):
                self._listed.append(name)
            found[place] = number
        return found

    def names(self, numbers: Int32 | None = None) -> Names:
        """The names of some numbers, or all of them in order."""
        if self._native is not None:
            data, ends = self._native.names(None if numbers is None else np.ascontiguousarray(numbers, np.int32))
            return Names.one_after_the_other(data, np.frombuffer(ends, dtype=np.int64))
        return Names.of(self._listed if numbers is None else [self._listed[number] for number in numbers.tolist()])
