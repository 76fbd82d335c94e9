"""ETags of metric answers: the same while nothing changed, another with whatever changes the answer."""

from __future__ import annotations

import pytest

from tests.api.line import BASE, Line, make_line
from tests.api.test_read import fill
from tests.servers import RunningServer

S = 1_000
PATHS = (
    "/v1/metrics/by_page",
    f"/v1/metrics/by_page?start={BASE}&format=csv",
    "/v1/metrics/by_page/latest",
    f"/v1/metrics/by_page/rolling?window=20s&at={BASE + 20 * S}",
)


def tag_of(line: Line, path: str) -> str:
    answer = line.http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Cache-Control"] == "no-cache"
    return answer.headers["ETag"]


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_did_not_change_is_a_304_without_a_body(line: Line, path: str) -> None:
    fill(line)
    tag = tag_of(line, path)

    again = line.http.get(path, headers={"If-None-Match": f'W/"x", {tag}'})

    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    assert again.headers["Cache-Control"] == "no-cache"
    assert line.http.get(path, headers={"If-None-Match": 'W/"x"'}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_every_event_that_is_committed_changes_the_tag(line: Line, path: str) -> None:
    fill(line)
    seen = {tag_of(line, path)}
    for second, page in ((26, "/b"), (27, None), (0, "/late"), (41, "/a")):
        line.add(second, page)
        line.work()
        seen.add(tag_of(line, path))

    assert len(seen) == 5


def test_the_tag_names_the_version_and_the_number_of_publications(line: Line) -> None:
    fill(line)
    version = line.get("/v1/metrics")["metrics"][0]["version"]

    assert tag_of(line, PATHS[0]).startswith(f'W/"{version}.2.')


def test_what_expired_changes_the_tag(line: Line) -> None:
    fill(line)
    before = tag_of(line, PATHS[0])

    [key] = line.server.client.keys("{by_page}:windows:*")
    line.server.client.zremrangebyrank(key, 0, 0)

    assert tag_of(line, PATHS[0]) != before


def test_another_question_has_another_tag(line: Line) -> None:
    fill(line)
    paths = [
        f"/v1/metrics/by_page?{query}"
        for query in ("", "limit=3", "format=csv", "where.page=/a", "step=20s", "agg=views")
    ]

    assert len({tag_of(line, path) for path in [*paths, *PATHS[2:]]}) == 8


def test_a_relative_range_has_the_same_tag_while_its_windows_are_the_same(line: Line) -> None:
    fill(line)
    paths = (f"/v1/metrics/by_page?start={BASE + 1}", f"/v1/metrics/by_page?start={BASE + 9_999}")

    assert len({tag_of(line, path) for path in paths}) == 1
    assert tag_of(line, f"/v1/metrics/by_page?start={BASE + 10_000}") != tag_of(line, paths[0])


def test_a_refused_question_has_no_tag(server: RunningServer) -> None:
    answer = make_line(server).http.get("/v1/metrics/by_page?step=7s", headers={"If-None-Match": "*"})

    assert answer.status_code == 422
    assert "ETag" not in answer.headers
