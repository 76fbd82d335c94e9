"""The config as the API shows it: the file's own text, without the passwords in it."""

from __future__ import annotations

import pytest

from api.app import create_app
from api.config_text import masked
from tests.api.line import CONFIG, make_line
from tests.servers import RunningServer

FILE = "# ours\nredis: {url: 'rediss://ann:s3cret@redis.example:6379/0'}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis: {url: redis://localhost:6379/0}", "redis: {url: redis://localhost:6379/0}"),
        ("url: redis://:s3cret@host:6379", "url: redis://***@host:6379"),
        ('url: "redis://ann:s3c@r/e:t#@host/0"  # why@where', 'url: "redis://***@host/0"  # why@where'),
        ("a: redis://x:s3cret@h, b: redis://y:s3cret@i", "a: redis://***@h, b: redis://***@i"),
        ("#url: unix://ann:s3cret@/run/redis.sock", "#url: unix://***@/run/redis.sock"),
        ("filter: \"page <> 'a@b'\"", "filter: \"page <> 'a@b'\""),
    ],
)
def test_what_stands_before_the_at_of_an_address_is_masked_and_nothing_else_is(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_the_text_is_served_as_it_is_in_the_file_but_for_the_password(server: RunningServer) -> None:
    app = create_app(CONFIG, server.url, config_text=FILE)
    answer = app.test_client().get("/v1/config")

    assert answer.get_json() == {"text": "# ours\nredis: {url: 'rediss://***@redis.example:6379/0'}\n"}
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_app_made_from_no_file_has_no_text(server: RunningServer) -> None:
    assert make_line(server).http.get("/v1/config").get_json() == {"text": None}
