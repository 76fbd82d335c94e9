"""Every fenced block of README and docs runs, or is checked by its language, against one running product.

Commands and Python run; a JSON answer has the members and types of the real one; YAML is loaded by the config loader;
units and server blocks are read by their own rules. What cannot run here stands in `EXCEPTIONS`, with the reason.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.main import get_command

from api.main import app
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.runtime.config import load_config
from tests.docs.blocks import PAGES, Block, blocks_of
from tests.docs.fragments import load_part
from tests.docs.session import Session
from tests.docs.shapes import differences
from tests.product.product import wait_for
from tests.test_layout import ROOT

EXCEPTIONS = {  # (page, first line): why it does not run
    (
        "docs/trust.md",
        "$ streamgauge verify views_by_section",
    ): "a number was changed by hand: test_verify.py",
    ("docs/durability.md", 'redis-cli -u "$REDIS_URL" CONFIG SET appendfsync always'): "is for a Redis of one's own",
}
DRAWINGS = ("", "text")
SHELLS = ("sh", "bash", "console")
LANGUAGES = (*DRAWINGS, *SHELLS, "python", "js", "json", "yaml", "csv", "ini", "nginx")
ALL = [block for page in PAGES for block in blocks_of(page.relative_to(ROOT).as_posix())]
NEED_A_PRODUCT = (*SHELLS, "python", "js")


def is_excepted(block: Block) -> bool:
    return (block.page, block.first_line) in EXCEPTIONS


def pages(wanted: Callable[[Block], bool]) -> list[str]:
    return sorted({block.page for block in ALL if wanted(block) and not is_excepted(block)})


def starts_its_own(page: str) -> bool:
    return any(block.language in SHELLS and "streamgauge up" in block.text for block in blocks_of(page))


def runs(block: Block) -> bool:
    return block.language in NEED_A_PRODUCT and block.mark != "file"


@pytest.fixture(autouse=True)
def forget_functions() -> Iterator[None]:
    before = dict(TRANSFORMS)
    yield
    TRANSFORMS.clear()
    TRANSFORMS.update(before)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The shipped config with some views, a late one, a refused one, a dead letter, and the files that pages name."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "config.yaml").write_text((ROOT / "config.yaml").read_text("utf-8"))
    with ExitStack() as stack:
        session = Session(folder, stack)
        fill(session)
        yield session


def fill(session: Session) -> None:
    product = session.product
    now_ms = time.time_ns() // 1_000_000
    old = [{"ts": now_ms - 120_000, "user": "ada", "page": "/docs/install", "load_ms": 41.5}]
    views = [{**old[0], "ts": now_ms - 20_000 + 50 * n, "user": f"u{n % 9}"} for n in range(400)]
    lines = {"views": [*views, *old], "last-week": old, "gateway-buffer": old}
    for name, rows in lines.items():
        (session.folder / f"{name}.ndjson").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    reading = {"ts": now_ms, "sensor": "door", "temperature": 19.5}
    (session.folder / "readings.ndjson").write_text(f"{json.dumps(reading)}\n")
    pl.DataFrame(views).with_columns(pl.lit(None, pl.String).alias("agent")).write_parquet(
        session.folder / "april.parquet"
    )
    with (
        product.redis() as client
    ):  # past the door, so that the stage finds out: a dead letter, and not the newest event
        client.xadd("{pageviews.0}:raw", {"ts": "never", "user": "ada", "page": "/"})
    bad = '{"ts": "never", "user": "ada", "page": "/"}'
    done = session.shell(f"streamgauge send pageviews views.ndjson; echo '{bad}' | streamgauge send pageviews || true")
    assert done.returncode == 0, done.stderr
    product.wait_until_applied("views_by_section")
    session.exchanged = {
        "1763928012400-0/4": lambda: named(session, "{id}/{row}"),
        # What was wrong with them still is: 1, as the page of commands says.
        "pageviews --replay --backfill": lambda: "pageviews --replay --backfill || [ $? = 1 ]",
        "--id 0:1763928012400-0": lambda: f"--id {dead_letter(session)} || [ $? = 1 ]",
        "45247": lambda: redis_port(session),
    }


def named(session: Session, form: str) -> str:
    """The newest event that counts: the last row of the views is a late one."""
    events = session.product.get("/v1/streams/pageviews/events", limit=1_000)["events"]
    latest_ms = max(each["event"]["ts"] for each in events if "error" not in each)
    return form.format(**next(each for each in events if each.get("event", {}).get("ts") == latest_ms))


def dead_letter(session: Session) -> str:
    return str(session.product.get("/v1/dead-letters", stage="views_by_section")["rows"][0]["id"])


def redis_port(session: Session) -> str:
    return (session.folder / "data/redis/port").read_text().strip()


def test_every_block_says_a_language_that_is_checked() -> None:
    assert [block.place for block in ALL if block.language not in LANGUAGES] == []


def test_every_exception_is_still_there() -> None:
    assert EXCEPTIONS.keys() - {(block.page, block.first_line) for block in ALL} == set()


@pytest.mark.parametrize("page", pages(lambda block: runs(block) and not starts_its_own(block.page)))
def test_what_a_page_shows_runs(page: str, shared: Session) -> None:
    run_page(shared, page)


@pytest.mark.timeout(300)  # it starts a product up to three times
@pytest.mark.parametrize("page", pages(lambda block: runs(block) and starts_its_own(block.page)))
def test_a_page_that_starts_a_product_runs_from_its_first_line_to_its_last(page: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        session = Session(tmp_path / "page", stack)
        session.folder.mkdir()
        shutil.copy(ROOT / "config.yaml", session.folder)
        run_page(session, page)


def run_page(session: Session, page: str) -> None:
    blocks = [block for block in blocks_of(page) if not is_excepted(block)]
    for block in blocks:
        if block.mark == "file":
            (session.folder / str(block.what)).write_text(block.text, "utf-8")
    printed = ""
    for block in blocks:
        if block.mark == "run" and block.what == "stop":
            session.stop()
        elif runs(block):
            _ = session.product
        if block.mark == "file" or block.language not in (*NEED_A_PRODUCT, "json"):
            printed = ""
        elif block.language == "console":
            printed = run_console(session, block)
        elif block.language in SHELLS:
            printed = session.run_shell(block)
        elif block.language == "python":
            session.run_python(block)
            printed = ""
        elif block.language == "js":
            run_javascript(session, block)
        elif is_json(printed):  # the answer to the command before it
            assert differences(json.loads(block.text), json.loads(printed)) == [], block.place
    session.forget_names()


def run_console(session: Session, block: Block) -> str:
    """Run the lines after `$`; what follows is what they print, but for numbers, ids and names."""
    if not re.search(r"^\$ ", block.text, re.MULTILINE):
        return session.run_shell(block)
    for command, said in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", session.text(block), re.MULTILINE):
        done = session.shell(command)
        assert done.returncode == 0, f"{block.place}: {command}\n{done.stdout}\n{done.stderr}"
        assert first_words(said) <= first_words(done.stdout), f"{block.place}: {command} printed\n{done.stdout}"
    return ""


def first_words(text: str) -> set[str]:
    return {re.sub(r"\d+", "#", line.split()[0]) for line in text.splitlines() if line.strip()}


def run_javascript(session: Session, block: Block) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here to run JavaScript with")
    script = session.folder / "page.mjs"
    script.write_text(session.text(block), "utf-8")
    done = subprocess.run([node, script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"


def is_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


@pytest.mark.parametrize("page", pages(lambda block: block.language == "json"))
def test_json_can_be_read(page: str) -> None:
    for block in blocks_of(page):
        if block.language == "json":
            values = list(json_values(block.text))
            assert values, block.place


def json_values(text: str) -> Iterator[Any]:
    """One value, or one a line."""
    try:
        yield json.loads(text)
    except json.JSONDecodeError:
        yield from (json.loads(line) for line in text.splitlines())


@pytest.mark.parametrize("page", pages(lambda block: block.language == "yaml"))
def test_yaml_is_taken_by_the_config_loader(page: str, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if block.mark == "file":
            (tmp_path / str(block.what)).write_text(block.text, "utf-8")
    for block in blocks_of(page):
        if block.language == "yaml" and block.mark == "file":
            load_config(tmp_path / str(block.what), {})
        elif block.language == "yaml":
            load_part(block.text, tmp_path, block.place)


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "ini"], ids=lambda block: block.place)
def test_a_unit_starts_a_command_with_options_that_there_are(block: Block) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(block.text)
    _, command, *words = unit["Service"]["ExecStart"].split()
    commands: dict[str, Any] = getattr(get_command(app), "commands")  # noqa: B009  # of a group, which mypy does not know
    options = {option for each in commands[command].params for option in each.opts}

    assert [word for word in words if word.startswith("-") and word not in options] == []


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "nginx"], ids=lambda block: block.place)
def test_a_proxy_passes_to_where_the_product_listens(block: Block) -> None:
    text = re.sub(r"#.*", "", block.text)

    assert text.count("{") == text.count("}") > 0
    assert all(line.rstrip().endswith((";", "{", "}")) for line in text.splitlines() if line.strip())
    assert set(re.findall(r"proxy_pass (\S+);", text)) == {"http://127.0.0.1:8080"}


def test_an_error_is_shown_as_it_is(shared: Session) -> None:
    (said,) = (block for block in ALL if block.page == "docs/http.md" and "unknown_parameter" in block.text)
    real = shared.product.http.get("/v1/metrics/views_by_section", params={"sart": "-1h"}).json()

    assert differences(json.loads(said.text), real) == []
    assert real["detail"] == json.loads(said.text)["detail"]


def ask(session: Session) -> dict[str, Callable[[], Any]]:
    """How each endpoint is asked whose answer a page shows."""
    get = session.product.get
    metric = "/v1/metrics/views_by_section"

    def post(path: str, said: object) -> Any:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return session.product.http.post(path, json=said, headers=key).json()

    def refused_and_taken() -> Any:
        now_ms = time.time_ns() // 1_000_000
        return post("/v1/streams/pageviews/events", [{"ts": now_ms, "user": "eve", "page": "/"}, {"ts": now_ms}])

    def late() -> str:
        return str(get("/v1/late", stage="views_by_section")["rows"][0]["id"])

    return {
        "GET /v1/metrics": lambda: get("/v1/metrics"),
        "GET /v1/metrics/{metric}": lambda: get(metric),
        "GET /v1/metrics/{metric} columns": lambda: get(metric, format="columns"),
        "GET /v1/metrics/{metric}/explain": lambda: get(
            f"{metric}/explain", start=get(metric)["data"][-1]["window_start"], section="docs"
        ),
        "GET /v1/streams": lambda: get("/v1/streams"),
        "GET /v1/streams/{stream}/watermark": lambda: get("/v1/streams/pageviews/watermark"),
        "GET /v1/streams/{stream}/events": lambda: get("/v1/streams/pageviews/events"),
        "GET /v1/streams/{stream}/skew": lambda: get("/v1/streams/pageviews/skew"),
        "GET /v1/streams/{stream}/events/{entry}/explain": lambda: get(
            named(session, "/v1/streams/pageviews/events/{id}/explain"), row=named(session, "{row}")
        ),
        "GET /v1/streams/{stream}/raw": lambda: get("/v1/streams/pageviews/raw"),
        "GET /v1/stages": lambda: {
            "stages": [each for each in get("/v1/stages")["stages"] if each["stage"] == "views_by_section"]
        },
        "POST /v1/streams/{stream}/events": refused_and_taken,
        "POST /v1/streams/{stream}/time": lambda: post("/v1/streams/pageviews/time", {"heartbeat": 1_763_928_012_000}),
        "GET /v1/late": lambda: get("/v1/late", stage="views_by_section"),
        "POST /v1/late/replay": lambda: post(
            "/v1/late/replay",
            {
                "stage": "views_by_section",
                "ids": [get("/v1/late", stage="views_by_section")["rows"][0]["id"]],
                "again": True,
            },
        ),
    }


SHOWN = [block for block in ALL if block.endpoint and block.language == "json"]


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: f"{block.place} {block.endpoint}")
def test_an_answer_on_the_page_has_the_members_of_a_real_one(block: Block, shared: Session) -> None:
    said = json.loads(block.text)
    by_columns = isinstance(said.get("data"), dict)
    asked = ask(shared).get(f"{block.endpoint} columns" if by_columns else str(block.endpoint))
    assert asked is not None, f"{block.place}: say in `ask` how {block.endpoint} is asked"
    wait_for(lambda: shared.product.get("/v1/late", stage="views_by_section")["total"] > 0, "a late row")
    real = asked()

    if by_columns:
        assert said["data"].keys() >= {"window_start", "window_end", "state", "revision"}
        said, real = said["meta"]["columns"][0], real["meta"]["columns"][0]
    if str(block.endpoint).endswith("/raw"):
        real = real | {"rows": [row for row in real["rows"] if row["kind"] == "chunk"]}
        said = said | {"rows": [row for row in said["rows"] if row["kind"] == "chunk"]}
    assert differences(said, real) == []
