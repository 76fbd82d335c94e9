"""The one connection factory: every client of Redis in this product is made here.

Invariant: nothing is ever sent twice by a `writer`. redis-py 8 retries every command up to ten times; with one lost
reply that stored an XADD twice and stranded an XREADGROUP batch in the pending list (FACTS 1).
"""

from __future__ import annotations

from typing import Any

import redis
from redis._parsers import Encoder
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import AbstractConnection, ConnectionPool, HiredisRespSerializer, PythonRespSerializer, parse_url
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

from pipeline.errors import StreamgaugeError
from pipeline.rim.packed_arguments import Packer

CONNECT_TIMEOUT_S = 5.0
# A commit may take 20 ms and an fsync on a busy disk some seconds. A server that takes longer than this is gone.
REPLY_TIMEOUT_S = 30.0
READ_RETRIES = 2  # of idempotent reads, over about 0.3 s: a restarted server, not one that is away
READ_RETRY_BASE_S = 0.1
READ_RETRY_CAP_S = 0.5
# One read brings chunks of up to 4 MB: redis-py's default of 64 kB makes 64 system calls of each.
SOCKET_READ_BYTES = 1 << 20
PACKED_TOGETHER_BYTES = 6_000  # redis-py's own cut-off: an argument above it is sent by itself
# More than the threads of any one process; redis-py's own limit turns the 101st into an error.
MAX_CONNECTIONS = 1_000
# RESP2: no HELLO and no maintenance-notification handshake at each connect, no push messages between replies.
DEFAULT_PROTOCOL = 2

# Error replies that say "not now". redis-py has classes for some of them, but the code before the first space is what
# the server promises, and a script's error keeps it.
_AWAY_CODES = frozenset(
    {"LOADING", "OOM", "MISCONF", "READONLY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"}
)
_AWAY_CLASSES = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
# Connection errors in redis-py's classes, but waiting does not cure them.
_REFUSED_CLASSES = (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError)


class RedisUrlError(StreamgaugeError):
    """The Redis URL cannot be used as it stands."""


def writer(url: str, *, reply_timeout_s: float = REPLY_TIMEOUT_S, large_values: bool = False) -> redis.Redis:
    """Return a client for commands that change something (XREADGROUP is one): each is sent at most once.

    `large_values`: for commands of a few large arguments. hiredis joins a command into one string, the packer
    in Python sends a large argument as it stands: 0.2 µs less of CPU for an event of 240 bytes, measured; it is the
    slower of the two for thousands of small arguments.

    Raises:
        RedisUrlError: the URL's scheme or a part of it is not understood.
    """
    return _client(url, Retry(NoBackoff(), 0), reply_timeout_s, large_values=large_values)


def reader(url: str, block_ms: int = 0) -> redis.Redis:
    """Return a client for reads that may be repeated (XREAD, XRANGE, HGETALL), which may block for `block_ms`.

    Raises:
        RedisUrlError: the URL's scheme or a part of it is not understood.
    """
    backoff = ExponentialBackoff(cap=READ_RETRY_CAP_S, base=READ_RETRY_BASE_S)
    return _client(url, Retry(backoff, READ_RETRIES), REPLY_TIMEOUT_S + block_ms / 1000)


def owner(url: str) -> redis.Redis:
    """Return a writer for a process that keeps in memory what the server holds, such as a worker.

    Connections come back silently, and the server they come back to may have been restored from less than the process
    wrote (FACTS 1). So the first connection to another run of the server is refused, as if Redis were away: whoever
    gets that error forgets what it keeps, and loads again.

    Raises:
        RedisUrlError: the URL's scheme or a part of it is not understood.
    """
    return _client(url, Retry(NoBackoff(), 0), REPLY_TIMEOUT_S, on_connect=OneRun())


class OneRun:
    """What a connection does when it is made: it finds out which run of the server it has reached."""

    def __init__(self) -> None:
        self._run_id: bytes | None = None

    def __call__(self, connection: AbstractConnection) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        known, self._run_id = self._run_id, _run_id(connection.read_response())
        if known not in (None, self._run_id):
            raise redis.exceptions.ConnectionError("another run of the server than before: it may hold less")


def _run_id(info: bytes) -> bytes:
    [found] = [line for line in info.splitlines() if line.startswith(b"run_id:")]
    return found


def is_away(error: BaseException) -> bool:
    """Tell whether Redis is away, loading, full or not the primary now: the same request may work later (503)."""
    if isinstance(error, _REFUSED_CLASSES):
        return False
    if isinstance(error, _AWAY_CLASSES):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and str(error).partition(" ")[0] in _AWAY_CODES


def _client(
    url: str,
    retry: Retry,
    reply_timeout_s: float,
    *,
    large_values: bool = False,
    on_connect: OneRun | None = None,
) -> redis.Redis:
    """Make a client with a thread-safe pool; what the URL's query says never overrides the retry policy."""
    options: dict[str, Any] = {"protocol": DEFAULT_PROTOCOL, "max_connections": MAX_CONNECTIONS}
    options |= _url_options(url)
    options |= {
        "retry": retry,
        "retry_on_timeout": False,
        "retry_on_error": [],
        "socket_timeout": reply_timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_read_size": SOCKET_READ_BYTES,
        "health_check_interval": 0,  # a PING before a command is one more place to fail in
        "decode_responses": False,
        "driver_info": None,  # no CLIENT SETINFO, which 7.0 does not know
        "redis_connect_func": on_connect,
    }
    encoder = Encoder("utf-8", "strict", decode_responses=False)
    in_python = PythonRespSerializer(PACKED_TOGETHER_BYTES, encoder.encode)
    options["command_packer"] = Packer(in_python if large_values or not HIREDIS_AVAILABLE else HiredisRespSerializer())
    client = redis.Redis.from_pool(ConnectionPool(**options))
    # redis-py takes XPENDING's long form for the summary unless a private option says otherwise, and breaks it.
    client.response_callbacks.pop("XPENDING")
    return client


def _url_options(url: str) -> dict[str, Any]:
    try:
        return dict(parse_url(url))
    except ValueError as error:
        raise RedisUrlError(
            f"redis.url: cannot use {without_password(url)!r} ({error}). "
            "Use redis://HOST:PORT/DB, rediss://… for TLS, unix:///path/to/socket, or 'embedded'."
        ) from error


def without_password(url: str) -> str:
    """Hide what stands before the @: a URL in a message ends up in a log."""
    scheme, slashes, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}{slashes}***@{place}" if at and credentials else url
