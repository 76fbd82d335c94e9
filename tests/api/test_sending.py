"""What `streamgauge send` makes of field=value texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from api.client import Client, SendResult
from api.sending import send_pairs
from pipeline.core.ndjson import encode_rows
from tests.fake_api import FakeApi, fake_api


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as fake:
        fake.stream("s", {"n": "int?", "v": "float"})
        yield fake


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1.5", 1.5), ("x", "x"), ("", None), ("nan", "nan"), (str(2**63), 2**63)]
)
def test_a_value_for_an_int_goes_out_as_what_was_typed(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, text: str, value: Any
) -> None:
    sent: list[bytes] = []

    def post_rows(stream: str, body: bytes, count: int, key: str) -> SendResult:
        sent.append(body)
        return SendResult(accepted=count)

    with Client(api.url) as client:
        monkeypatch.setattr(client, "post_rows", post_rows)
        send_pairs(client, "s", [f"n={text}"])

    assert sent == [encode_rows([{"n": value}])]
