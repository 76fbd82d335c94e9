"""What a Redis server must be like for the promises to hold, checked at start and every minute.

Invariant: a check that the server does not let us make is reported as not made, never as passed in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis

from pipeline.errors import ServerUnfitError
from pipeline.rim.scripts import Script, Scripts, script
from pipeline.rim.server_binary import OLDEST_VERSION

SECTIONS = ("server", "memory", "persistence", "replication")
# The flag every draining script carries: without it, a full server can take no commit and so never gets emptier.
PROBE = script("probe", b"#!lua flags=allow-oom\nreturn 1")
VOLATILE_WAY_OUT = "or start with --allow-volatile, if the data may be lost with the server"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `seen` is what the server said, `sentence` what it means and, where it is not `ok`, what to do."""

    name: str
    ok: bool
    seen: str
    sentence: str


def check_server(client: redis.Redis, allow_volatile: bool) -> list[Finding]:
    """Return one finding for each requirement.

    Raises:
        redis.exceptions.ConnectionError, TimeoutError: it is away or loading, which says nothing about its fitness.
    """
    return [*_check_info(client, allow_volatile), _check_fsync(client, allow_volatile), _check_scripts(client)]


def require_fit(client: redis.Redis, allow_volatile: bool) -> None:
    """Refuse a server that cannot keep the promises.

    Raises:
        ServerUnfitError: with one sentence for each thing to change.
    """
    unfit = [each for each in check_server(client, allow_volatile) if not each.ok]
    if unfit:
        raise ServerUnfitError("\n".join(f"redis: {each.name} is {each.seen}: {each.sentence}" for each in unfit))


def check_info(info: Mapping[str, Any], allow_volatile: bool) -> list[Finding]:
    """Judge what INFO says of itself."""
    return [
        _version(info),
        _role(info),
        _eviction(info),
        _append_only(info, allow_volatile),
        _last_write(info),
    ]


def _check_info(client: redis.Redis, allow_volatile: bool) -> list[Finding]:
    try:
        return check_info(client.info(*SECTIONS), allow_volatile)
    except redis.exceptions.NoPermissionError:
        what = "version, role, maxmemory-policy and appendonly could not be checked: `ACL SETUSER … +info` allows it"
        return [Finding("info", True, "not permitted", what)]


def _version(info: Mapping[str, Any]) -> Finding:
    # Valkey keeps redis_version at the Redis it is compatible with, and its own beside it.
    compatible = str(info["redis_version"])
    seen = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {compatible}"
    major, minor, *_ = (int(part) for part in compatible.split("."))
    return Finding(
        "version",
        (major, minor) >= OLDEST_VERSION,
        seen,
        "Redis or Valkey 7.0 or newer is needed, for scripts that may run when memory is full",
    )


def _role(info: Mapping[str, Any]) -> Finding:
    role = str(info["role"])
    return Finding("role", role == "master", role, "give the URL of the primary: a replica takes no writes")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info["maxmemory_policy"])
    way_out = "set `maxmemory-policy noeviction`: any other deletes streams with their groups when memory is full"
    return Finding("maxmemory-policy", policy == "noeviction", policy, way_out)


def _append_only(info: Mapping[str, Any], allow_volatile: bool) -> Finding:
    on = bool(info["aof_enabled"])
    way_out = f"set `appendonly yes`, so that events survive a restart of the server, {VOLATILE_WAY_OUT}"
    return Finding("appendonly", on or allow_volatile, "yes" if on else "no", way_out)


def _last_write(info: Mapping[str, Any]) -> Finding:
    status = str(info.get("aof_last_write_status", "ok"))
    way_out = "the server cannot write its append-only file: look at the free disk space and at its log"
    return Finding("aof_last_write_status", status == "ok", status, way_out)


def _check_fsync(client: redis.Redis, allow_volatile: bool) -> Finding:
    try:
        policy = str(client.config_get("appendfsync").get("appendfsync", "unknown"))
    except redis.exceptions.ResponseError:  # forbidden by an ACL, or renamed away as hosted servers do
        how = "could not be checked, because CONFIG is not permitted: make sure it is `everysec` or `always`"
        return Finding("appendfsync", True, "not permitted", how)
    way_out = f"set `appendfsync everysec` (or `always`): else a power cut loses half a minute, {VOLATILE_WAY_OUT}"
    return Finding("appendfsync", policy != "no" or allow_volatile, policy, way_out)


def _check_scripts(client: redis.Redis) -> Finding:
    """Run a script by source and by name, with the flag: what every write of the pipeline needs."""
    way_out = "permit scripts to this user (`ACL SETUSER … +eval +evalsha`), also with `#!lua flags=allow-oom`"
    try:
        _run_probe(client, PROBE)
    except redis.exceptions.ResponseError as error:
        return Finding("scripts", False, str(error), way_out)
    return Finding("scripts", True, "permitted", way_out)


def _run_probe(client: redis.Redis, probe: Script) -> None:
    for _ in range(2):  # the first time the server may not know it, and it goes by EVAL
        Scripts(client, {probe.name: probe}).run(probe.name, keys=[])
