"""One 64-bit hash of values, the same in every process, version and machine, computed for a whole column at once.

The hash is part of what is stored: another one would count every value of an open window twice. It is MurmurHash64A
with the last, shorter word mixed like the others and MurmurHash3's finalizer: as published, strings that differ in
their last bytes alone (`user-1000001`, `user-1000002`) made HyperLogLog miss 5 % of 10,000. What is hashed:

    int, timestamp (ms), bool   8 bytes of the int64, little-endian
    float                       8 bytes of the double; -0.0 as 0.0, and all nans as one
    string                      its UTF-8; above LONG_BYTES the 16 bytes of its blake2b stand for it
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.accumulators import Column, Int64

Hashes = npt.NDArray[np.uint64]
LONG_BYTES = 256  # a round per 8 bytes goes over the column: this bounds the rounds
_M = np.uint64(0xC6A4A7935BD1E995)  # Austin Appleby's MurmurHash64A; its seed here is 0
_R = np.uint64(47)
_F1 = np.uint64(0xFF51AFD7ED558CCD)  # of MurmurHash3's fmix64
_F2 = np.uint64(0xC4CEB9FE1A85EC53)
_S = np.uint64(33)
_WORD = 8


def canonical_bits(values: Column) -> Int64:
    """Int64 values as they are, and float64 as the bits of the one spelling of each value."""
    if values.dtype != np.float64:
        return values.astype(np.int64, copy=False)
    return np.where(np.isnan(values), np.nan, values + 0.0).view(np.int64)


def hash_values(values: Column) -> Hashes:
    """Return the hash of each value of an int64, float64 or object (string) array."""
    if values.dtype == object:
        return _hash_strings(pl.Series(values, dtype=pl.String))
    words = canonical_bits(values).view(np.uint64)
    with np.errstate(over="ignore"):
        return _finish(_round(np.full(len(words), np.uint64(_WORD) * _M), words))


def hash_series(values: pl.Series) -> Hashes:
    """Return the hash of each value of a column of texts or int64; that of a null says nothing."""
    if values.dtype == pl.String:
        return _hash_strings(values.fill_null(""))
    return hash_values(values.fill_null(0).cast(pl.Int64).to_numpy())


def _round(hashes: Hashes, words: Hashes) -> Hashes:
    words = words * _M
    words ^= words >> _R
    words *= _M
    return (hashes ^ words) * _M


def _finish(hashes: Hashes) -> Hashes:
    hashes = (hashes ^ (hashes >> _S)) * _F1
    hashes = (hashes ^ (hashes >> _S)) * _F2
    return hashes ^ (hashes >> _S)


def _hash_strings(texts: pl.Series) -> Hashes:
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64)
    is_long = np.flatnonzero(lengths > LONG_BYTES)
    if len(is_long):
        return _hash_bytes([_stand_in(text) for text in texts.to_list()])
    return _hash_packed(texts.str.join("").item().encode() if len(texts) else b"", lengths)


def _stand_in(text: str) -> bytes:
    data = text.encode()
    return data if len(data) <= LONG_BYTES else hashlib.blake2b(data, digest_size=16).digest()


def _hash_bytes(values: list[bytes]) -> Hashes:
    return _hash_packed(b"".join(values), np.fromiter(map(len, values), dtype=np.int64, count=len(values)))


def _hash_packed(data: bytes, lengths: Int64) -> Hashes:
    """Hash values that stand one behind the other in `data`; a round for each 8 bytes of the longest."""
    padded = np.frombuffer(data + bytes(_WORD), dtype=np.uint8)
    words = np.lib.stride_tricks.sliding_window_view(padded, _WORD)
    begins = np.cumsum(lengths) - lengths
    with np.errstate(over="ignore"):
        hashes = lengths.astype(np.uint64) * _M
        for at in range(0, int(lengths.max(initial=0)), _WORD):
            left = lengths - at
            whole = np.flatnonzero(left >= _WORD)
            hashes[whole] = _round(hashes[whole], _words(words, begins[whole] + at))
            tails = np.flatnonzero((left > 0) & (left < _WORD))
            hashes[tails] = _round(hashes[tails], _words(words, begins[tails] + at) & _mask(left[tails]))
        return _finish(hashes)


def _words(windows: npt.NDArray[np.uint8], positions: Int64) -> Hashes:
    return windows[positions].view("<u8").reshape(-1).astype(np.uint64, copy=False)


def _mask(lengths: Int64) -> Hashes:
    """The low `lengths` bytes of a word, 1 to 7: what stands behind them is the next value's."""
    return (np.uint64(1) << (lengths * _WORD).astype(np.uint64)) - np.uint64(1)
