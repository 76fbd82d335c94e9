"""The benchmark's own load, as fast as the door takes it, while every process of `up` is killed: each row is right.

The storms of tests/faults append to Redis at a rate of their own; here 2 M ad events come over HTTP from three
connections that send a body again, under its idempotency key, until it is answered. The recount is the benchmark's.
No silence moves time here: how long a killed process stays away is up to the machine, and late events are counted.
"""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bench.cases import METRIC, YAHOO, Loads, Task, write_config
from bench.end_to_end import recount
from bench.product import Product as Measured
from tests.faults.logs import written
from tests.product.product import Product, assert_balanced, wait_for

LOAD = replace(YAHOO, idle_after="none")
CONNECTIONS = 3
ANSWERED_S = 120.0  # for one body, whatever is killed meanwhile
AGAIN_S = 0.05
BACK_S = 60.0  # for a killed process, whose pauses grow
NOT_NOW = (429, 503)
# What is killed once a share of the bodies is answered.
PLAN = (
    *((0.08, "worker-1"), (0.16, "granian"), (0.24, "redis"), (0.34, "worker-2"), (0.42, "scheduler")),
    *((0.50, "redis"), (0.58, "worker-1"), (0.66, "worker-2"), (0.74, "granian"), (0.82, "redis"), (0.90, "worker-1")),
)


class Senders:
    """Threads that send every body once, none further ahead of the oldest without an answer than `task.lead`."""

    def __init__(self, port: int, task: Task) -> None:
        self._port, self._task = port, task
        self._turn = threading.Condition()
        self._next = 0
        self._is_answered = [False] * len(task.bodies)
        self._oldest = 0  # without an answer
        self.again = 0
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CONNECTIONS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def have_sent(self, share: float) -> bool:
        assert self.errors == []
        return self._oldest >= share * len(self._task.bodies)

    def _run(self) -> None:
        while (number := self._take()) is not None:
            if error := self._send(number):
                self.errors.append(error)
                return
            with self._turn:
                self._is_answered[number] = True
                while self._oldest < len(self._is_answered) and self._is_answered[self._oldest]:
                    self._oldest += 1
                self._turn.notify_all()

    def _take(self) -> int | None:
        with self._turn:
            self._turn.wait_for(lambda: self._next - self._oldest <= self._task.lead, ANSWERED_S)
            if self._next == len(self._task.bodies) or self._next - self._oldest > self._task.lead:
                return None
            self._next += 1
            return self._next - 1

    def _send(self, number: int) -> str | None:
        """Send until it is answered; return what is wrong, if anything."""
        headers = {"Content-Type": self._task.content_type, "Idempotency-Key": f"body-{number}"}
        deadline_s = time.monotonic() + ANSWERED_S
        said = "nothing was answered"
        while time.monotonic() < deadline_s:
            line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWERED_S)
            try:
                line.request("POST", f"/v1/streams/{LOAD.source.stream}/events", self._task.bodies[number], headers)
                answer = line.getresponse()
                status, said = answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException) as error:  # its process was killed, or is not back yet
                said = repr(error)
            else:
                if status in (200, 202):
                    return None
                if status not in NOT_NOW:
                    return f"body {number} was answered with {status}: {said}"
            finally:
                line.close()
            self.again += 1
            time.sleep(AGAIN_S)
        return f"body {number} was not taken in {ANSWERED_S} s: {said}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_benchmark_s_load_is_counted_right_while_everything_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Loads(2_000_000, 1_000_000, batch=5_000, late=0.01).task(LOAD)
    config = write_config(LOAD, task.tables, tmp_path)
    with Product(tmp_path / "up", "--workers", "2", config=config) as product:
        product.wait_until_ready()
        began_s = time.monotonic()
        senders = Senders(product.port, task)
        senders.start()
        kill_in_turns(product, senders)
        wait_for(
            partial(senders.have_sent, 1.0), "everything to be sent", 4 * ANSWERED_S, lambda: product.said[-3_000:]
        )
        sent_s = time.monotonic() - began_s
        wait_for(product.ready, "everything to be back", BACK_S, lambda: product.said[-3_000:])
        assert product.http.post("/v1/streams/ads/time", json={"end": True}).status_code == 202
        measured = Measured(product.process, product.port, product.folder, config)
        measured.wait_until_complete(METRIC, task.end_ms)
        done_s = time.monotonic() - began_s
        with capsys.disabled():
            print(
                f"\n{task.n_events} events, {len(PLAN)} kills: sent in {sent_s:.1f} s with {senders.again} sent again,"
            )
            print(f"complete after {done_s:.1f} s")

        assert recount(measured, LOAD, task) == len(task.expected)
        assert_balanced(product)
        assert product.stage(METRIC)["ledger"]["read"] == task.n_events
        verified = product.run("verify", "--config", config, "--data-dir", product.data_dir)
        assert verified.returncode == 0, verified.stdout + verified.stderr


def kill_in_turns(product: Product, senders: Senders) -> None:
    for share, victim in PLAN:
        wait_for(partial(senders.have_sent, share), f"{share:.0%} to be sent", ANSWERED_S)
        wait_for(partial(runs, product, victim), f"{victim} to run", BACK_S, lambda: product.said[-3_000:])
        if victim == "redis":
            kill_server(product)
        else:
            product.tree()[victim].kill()


def runs(product: Product, name: str) -> bool:
    return name in product.tree()


def kill_server(product: Product) -> None:
    """kill -9 at a moment when the disk keeps up, as `Storm.kill_server` does and for its reason."""
    with product.redis() as client:
        client.config_set("appendfsync", "no")
        written(client)
    product.tree()["redis"].kill()
