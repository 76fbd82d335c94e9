"""Health and Prometheus: what is wrong is said, with what to do, and every number is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.rim import keys
from pipeline.rim.store import redis_time_ms
from tests.api.line import BASE, Line, make_line
from tests.servers import RunningServer

DOCS = Path(__file__).resolve().parents[2] / "docs"


def failing(line: Line) -> dict[str, dict[str, Any]]:
    """The checks that fail, by name; the answer must be a 503 problem that speaks of each."""
    answer = line.http.get("/readyz")
    said = answer.get_json(force=True)
    found = {check["name"]: check for check in said["checks"] if not check["ok"]}
    assert answer.status_code == (503 if found else 200)
    assert said["ready"] is (not found)
    if found:
        assert answer.content_type == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert all(name in said["detail"] and check["advice"] for name, check in found.items())
    return found


def samples(line: Line) -> dict[tuple[str, ...], float]:
    """Prometheus samples by (name, label values in the order of the text)."""
    text = line.http.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_working_installation_is_ready(line: Line) -> None:
    line.add(0, "/a")
    line.work()

    assert failing(line) == {}
    names = [check["name"] for check in line.get("/readyz")["checks"]]
    assert names[0] == "redis"
    assert names[-3:] == ["workers", "checkpoints", "ledger"]


def test_an_idle_installation_without_a_worker_is_ready(line: Line) -> None:
    assert failing(line) == {}


def test_events_that_nobody_works_on_are_named_with_the_way_out(line: Line) -> None:
    line.add(0, "/a")

    check = failing(line)["workers"]

    assert "by_page on partition 0 of visits" in check["detail"]
    assert "streamgauge worker" in check["advice"]


def test_a_worker_that_has_not_beaten_for_ten_seconds_is_dead(line: Line) -> None:
    line.add(0, "/a")
    client = line.server.client
    client.set(keys.lease("visits", 0), "w9")

    client.zadd(keys.workers(), {"w9": redis_time_ms(client) - 9_000})
    assert failing(line) == {}
    client.zadd(keys.workers(), {"w9": redis_time_ms(client) - 10_001})
    assert list(failing(line)) == ["workers"]


def test_a_lease_between_two_workers_is_given_time_before_it_is_called_unheld(line: Line) -> None:
    client = line.server.client
    now_ms = redis_time_ms(client)
    client.zadd(keys.workers(), {"w9": now_ms})

    line.add(0, "/a")
    assert failing(line) == {}
    client.xtrim(keys.raw("visits", 0), maxlen=0)
    client.delete(keys.raw("visits", 0))
    client.xadd(keys.raw("visits", 0), {"ts": str(BASE)}, id=f"{now_ms - 60_000}-0")
    assert "60 s" in failing(line)["workers"]["detail"]


def test_a_commit_that_was_cut_off_is_named(line: Line) -> None:
    group = line.worker.programs["by_page"].group
    line.server.client.hset(keys.checkpoint("visits", 0, group), "torn", "1")

    assert "by_page on partition 0 of visits" in failing(line)["checkpoints"]["detail"]
    assert line.get("/v1/stages/by_page")["partitions"][0]["torn"] is True


def test_books_that_do_not_add_up_are_named(line: Line) -> None:
    client = line.server.client
    group = line.worker.programs["by_page"].group
    client.hset(keys.checkpoint("visits", 0, group), mapping={"read": "3", "accepted": "2"})
    client.hset(keys.door("visits", 0), mapping={"received": "5", "stored": "3", "duplicate": "1"})

    found = failing(line)

    assert list(found) == ["ledger"]
    assert "by_page on partition 0 of visits: read 3, but accepted 2" in found["ledger"]["detail"]
    assert "the door of partition 0 of visits: received 5, but stored 3 + duplicate 1" in found["ledger"]["detail"]
    assert samples(line)[("streamgauge_ledger_balanced", "by_page", "stage")] == 0
    assert samples(line)[("streamgauge_ledger_balanced", "visits", "stream")] == 0
    assert samples(line)[("streamgauge_ledger_balanced", "by_kind", "stage")] == 1
    assert line.get("/v1/stages/by_page")["ledger"]["balances"] is False


def test_a_server_that_may_evict_is_not_fit_and_is_looked_at_again_until_it_is(
    throwaway_server: RunningServer,
) -> None:
    throwaway_server.client.config_set("maxmemory-policy", "allkeys-lru")
    line = make_line(throwaway_server)

    assert "noeviction" in failing(line)["redis_maxmemory_policy"]["advice"]
    throwaway_server.client.config_set("maxmemory-policy", "noeviction")
    assert failing(line) == {}


def test_redis_away_is_not_ready_but_alive(throwaway_server: RunningServer) -> None:
    line = make_line(throwaway_server)
    throwaway_server.kill()

    assert list(failing(line)) == ["redis"]
    assert line.get("/livez") == {"alive": True}
    scrape = line.http.get("/metrics")
    assert (scrape.status_code, "Retry-After" in scrape.headers) == (503, True)
    throwaway_server.restart()
    assert failing(line) == {}


def test_prometheus_reads_the_books_the_lag_and_the_watermark(line: Line) -> None:
    line.add(0, "/a")
    line.add(1, "/b", bot=True)
    line.add(25, "/a")
    line.work()
    line.add(3, "/late")
    line.work()
    line.add(26, "/a")
    client = line.server.client
    client.hset(keys.door("visits", 0), mapping={"received": "9", "stored": "4", "duplicate": "3", "rejected": "2"})
    client.xadd(keys.quarantine("visits", 0), {"reason": "x"})

    found = samples(line)

    assert [found[(f"streamgauge_events_{name}_total", "visits")] for name in ("received", "stored")] == [9, 4]
    assert [found[(f"streamgauge_events_{name}_total", "visits")] for name in ("duplicate", "rejected")] == [3, 2]
    outcomes = ("accepted", "filtered", "late", "dead")
    assert [found[("streamgauge_stage_events_total", name, "by_page")] for name in outcomes] == [2, 1, 1, 0]
    assert found[("streamgauge_stage_lag_events", "by_page")] == 1
    assert found[("streamgauge_watermark_seconds", "by_page")] == (BASE + 25_000) / 1_000
    delay_s = redis_time_ms(client) / 1_000 - (BASE + 25_000) / 1_000
    assert found[("streamgauge_watermark_delay_seconds", "by_page")] == pytest.approx(delay_s, abs=60)
    assert found[("streamgauge_late_entries", "by_page")] == 1
    assert found[("streamgauge_quarantine_entries", "visits")] == 1
    assert found[("streamgauge_workers",)] == 1
    assert found[("streamgauge_redis_memory_bytes",)] > 100_000
    assert ("streamgauge_watermark_seconds", "people") not in found


def test_two_scrapes_of_two_processes_count_the_same(line: Line, server: RunningServer) -> None:
    line.add(0, "/a")
    line.work()

    other = make_line(server)
    read = ("streamgauge_stage_events_total", "accepted", "by_page")
    assert samples(line)[read] == samples(line)[read] == samples(other)[read] == 1


def test_every_prometheus_metric_is_in_the_table_of_the_docs_with_its_labels(line: Line) -> None:
    line.add(0, "/a")
    line.work()
    families = text_string_to_metric_families(line.http.get("/metrics").text)
    served = {(s.name, ", ".join(sorted(s.labels))) for family in families for s in family.samples}

    rows = re.findall(r"^\| `(streamgauge_\w+)` \|([^|]*)\|", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE)
    documented = {(name, ", ".join(sorted(re.findall(r"`(\w+)`", labels)))) for name, labels in rows}

    assert documented == served


def test_every_endpoint_is_in_the_docs_and_every_one_in_the_docs_is_there(line: Line) -> None:
    served = {
        f"{method} {rule.rule.replace('path:', '').replace('<', '{').replace('>', '}')}"
        for rule in line.http.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if "<any(" not in rule.rule
    }

    documented = set(re.findall(r"^#+ `((?:GET|POST) /[^`]*)`", (DOCS / "http.md").read_text("utf-8"), re.MULTILINE))

    assert documented == served
