"""The script loader, and the rule that every script file says what its keys and arguments are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from pipeline.rim.scripts import Operands, Scripts, all_scripts, script
from tests.servers import RunningServer

DOUBLE = script("double", b"#!lua\nreturn {KEYS[1], ARGV[1], redis.call('INCRBY', KEYS[1], ARGV[1])}")
FAILING = script("failing", b"redis.call('INCR', KEYS[1]); return redis.error_reply('BROKEN on purpose')")
PARAMETER = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")
DOCUMENTED = re.compile(r"\b(KEYS|ARGV)\[(\d+)(?: *\.\.[^\]]*)?\] *\S")  # ARGV[3], ARGV[6..], KEYS[6 .. 5+S]


def test_a_script_the_server_does_not_know_is_loaded_and_run_once(any_server: RunningServer) -> None:
    scripts = Scripts(any_server.client, {"double": DOUBLE})
    any_server.client.script_flush()

    assert scripts.run("double", keys=["n"], args=[2]) == [b"n", b"2", 2]
    assert scripts.run("double", keys=[b"n"], args=["2"]) == [b"n", b"2", 4]


def test_a_known_script_is_sent_by_its_name_only(server: RunningServer) -> None:
    scripts = Scripts(server.client, {"double": DOUBLE})
    scripts.run("double", keys=["n"], args=[1])
    server.client.config_resetstat()

    scripts.run("double", keys=["n"], args=[1])

    used = server.client.info("commandstats")
    assert used["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_eval" not in used


def test_a_script_is_loaded_again_after_the_server_lost_it(throwaway_server: RunningServer) -> None:
    scripts = Scripts(throwaway_server.client, {"double": DOUBLE})
    scripts.run("double", keys=["n"], args=[1])

    throwaway_server.kill()
    throwaway_server.restart()

    assert scripts.run("double", keys=["n"], args=[1]) == [b"n", b"1", 2]


def test_a_script_that_fails_is_not_sent_again(server: RunningServer) -> None:
    scripts = Scripts(server.client, {"failing": FAILING})

    with pytest.raises(redis.exceptions.ResponseError, match="BROKEN on purpose"):
        scripts.run("failing", keys=["n"])

    assert server.client.get("n") == b"1"


def test_each_of_many_calls_is_answered_in_order_whoever_knows_the_script(server: RunningServer) -> None:
    scripts = Scripts(server.client, {"double": DOUBLE})
    server.client.script_flush()
    calls = [Operands(["n"], [number]) for number in range(5)]

    assert [argument for _, argument, _ in scripts.run_each("double", calls)] == [b"0", b"1", b"2", b"3", b"4"]
    assert server.client.get("n") == b"10", "each has run once"
    assert list(scripts.run_each("double", [])) == []


def test_a_call_is_made_while_the_one_before_it_runs(server: RunningServer) -> None:
    scripts, made = Scripts(server.client, {"double": DOUBLE}), []

    def calls() -> Iterator[Operands]:
        for number in range(3):
            made.append(number)
            yield Operands(["n"], [number])

    replies = scripts.run_each("double", calls())
    next(replies)
    assert made == [0, 1]
    assert len(list(replies)) == 2


def test_calls_whose_replies_nobody_reads_answer_no_other_command(server: RunningServer) -> None:
    scripts = Scripts(server.client, {"double": DOUBLE, "failing": FAILING})
    replies = scripts.run_each("double", [Operands(["n"], [number]) for number in range(5)])
    next(replies)
    replies.close()
    with pytest.raises(redis.exceptions.ResponseError, match="BROKEN on purpose"):
        list(scripts.run_each("failing", [Operands(["m"])] * 3))

    assert server.client.ping()
    assert scripts.run("double", keys=["other"], args=[7]) == [b"other", b"7", 7]


def test_a_body_of_megabytes_arrives_whole(server: RunningServer) -> None:
    body = bytes(range(256)) * 16_384
    scripts = Scripts(server.client, {"echo": script("echo", b"#!lua\nreturn ARGV[1]")})

    assert scripts.run("echo", keys=[], args=[body]) == body


def test_script_files_are_found_by_their_names() -> None:
    assert {"commit", "lease"} <= set(all_scripts())


@pytest.mark.parametrize("name", sorted(all_scripts()))
def test_every_script_says_what_each_key_and_argument_is(name: str) -> None:
    header, code = header_and_code(all_scripts()[name].source.decode())

    assert missing_parameters(header, code) == set()


def test_a_script_without_a_table_is_found() -> None:
    header, code = header_and_code("#!lua\n-- Sets.\n-- KEYS[1] a\nreturn redis.call('SET', KEYS[1], ARGV[1])\n")

    assert missing_parameters(header, code) == {("ARGV", 1)}


@pytest.mark.parametrize("name", sorted(all_scripts()))
def test_every_script_names_its_flags_and_compiles(name: str, server: RunningServer) -> None:
    source = all_scripts()[name].source

    assert source.startswith(b"#!lua")
    assert server.client.script_load(source) == all_scripts()[name].sha1


def header_and_code(source: str) -> tuple[str, str]:
    """Split a script into the comments it begins with and the rest."""
    lines = source.splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith(("--", "#!"))), len(lines))
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def missing_parameters(header: str, code: str) -> set[tuple[str, int]]:
    """Return the parameters that the code names and the header does not, and `KEYS[1]` or `ARGV[1]` of a loop's."""
    used = {(kind, int(number)) for kind, number in PARAMETER.findall(code)}
    used |= {(kind, 1) for kind in ("KEYS", "ARGV") if kind in code and not any(k == kind for k, _ in used)}
    return used - {(kind, int(number)) for kind, number in DOCUMENTED.findall(header)}
