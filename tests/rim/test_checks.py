"""Start-up checks: each unfit setting is refused with a sentence that says what to change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.errors import ServerUnfitError
from pipeline.rim.checks import Finding, check_info, check_server, require_fit
from pipeline.rim.connection import writer
from tests.servers import RunningServer

FIT_INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}


def unfit(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings if not finding.ok}


def test_every_server_we_promise_to_work_with_is_fit(any_server: RunningServer) -> None:
    findings = check_server(any_server.client, allow_volatile=False)

    assert unfit(findings) == {}
    assert {finding.name for finding in findings} == {
        *("version", "role", "maxmemory-policy", "appendonly", "aof_last_write_status", "appendfsync", "scripts")
    }
    require_fit(any_server.client, allow_volatile=False)


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru: set `maxmemory-policy noeviction`"),
        ("appendonly", "no", "appendonly is no: set `appendonly yes`"),
        ("appendfsync", "no", "appendfsync is no: set `appendfsync everysec`"),
    ],
)
def test_a_setting_that_loses_data_is_refused_with_what_to_set(
    throwaway_server: RunningServer, setting: str, value: str, sentence: str
) -> None:
    throwaway_server.client.config_set(setting, value)

    with pytest.raises(ServerUnfitError) as refused:
        require_fit(throwaway_server.client, allow_volatile=False)

    assert sentence in str(refused.value)


def test_all_that_is_wrong_is_said_at_once(throwaway_server: RunningServer) -> None:
    throwaway_server.client.config_set("maxmemory-policy", "volatile-ttl")
    throwaway_server.client.config_set("appendonly", "no")

    assert set(unfit(check_server(throwaway_server.client, allow_volatile=False))) == {"maxmemory-policy", "appendonly"}


def test_a_volatile_server_is_fit_where_that_is_allowed_but_never_one_that_evicts(
    throwaway_server: RunningServer,
) -> None:
    throwaway_server.client.config_set("appendonly", "no")
    require_fit(throwaway_server.client, allow_volatile=True)

    throwaway_server.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ServerUnfitError):
        require_fit(throwaway_server.client, allow_volatile=True)


@pytest.fixture
def limited(throwaway_server: RunningServer) -> Iterator[Any]:
    clients: list[redis.Redis] = []

    def limited_to(*rules: str) -> redis.Redis:
        throwaway_server.client.execute_command("ACL SETUSER", "app", "on", "nopass", "~*", "+@all", *rules)
        path = throwaway_server.url.removeprefix("unix://")
        clients.append(writer(f"unix://app:any@{path}"))
        return clients[-1]

    yield limited_to
    for client in clients:
        client.close()


def test_what_config_would_have_said_is_reported_as_not_checked(limited: Any) -> None:
    findings = {finding.name: finding for finding in check_server(limited("-config"), allow_volatile=False)}

    assert findings["appendfsync"].ok
    assert "could not be checked" in findings["appendfsync"].sentence
    assert findings["appendonly"].seen == "yes"


def test_what_info_would_have_said_is_reported_as_not_checked(limited: Any) -> None:
    findings = {finding.name: finding for finding in check_server(limited("-info"), allow_volatile=False)}

    assert findings["info"].ok
    assert "could not be checked" in findings["info"].sentence


@pytest.mark.parametrize("command", ["-eval", "-evalsha"])
def test_a_user_who_may_not_run_scripts_is_refused(limited: Any, command: str) -> None:
    with pytest.raises(ServerUnfitError, match=r"redis: scripts is .*\+eval \+evalsha"):
        require_fit(limited(command), allow_volatile=False)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"redis_version": "6.2.14"}, "version"),
        ({"role": "slave"}, "role"),
        ({"aof_last_write_status": "err"}, "aof_last_write_status"),
    ],
)
def test_an_unfit_server_is_named_by_what_it_says_of_itself(said: dict[str, str], name: str) -> None:
    assert set(unfit(check_info(FIT_INFO | said, allow_volatile=False))) == {name}


def test_valkeys_own_version_is_the_one_shown() -> None:
    info = FIT_INFO | {"redis_version": "7.2.4", "valkey_version": "9.1.2"}

    assert check_info(info, allow_volatile=False)[0] == Finding(
        "version",
        True,
        "Valkey 9.1.2",
        "Redis or Valkey 7.0 or newer is needed, for scripts that may run when memory is full",
    )


def test_a_server_that_is_away_is_not_called_unfit(throwaway_server: RunningServer) -> None:
    throwaway_server.kill()

    with pytest.raises(redis.exceptions.ConnectionError):
        check_server(throwaway_server.client, allow_volatile=False)
