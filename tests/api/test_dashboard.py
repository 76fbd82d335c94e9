"""The dashboard's files as they are served: types, policy, ETags, size, and that nothing comes from anywhere else."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from api.dashboard_files import dashboard_files
from tests.api.line import Line, make_line
from tests.servers import RunningServer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "api" / "dashboard"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())
OURS = [name for name in FILES if not name.startswith("vendor/")]
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}
MAX_GZIPPED = 200_000
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
# A namespace of SVG is a name and no address: it is never asked for.
NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.fixture
def line(server: RunningServer) -> Line:
    return make_line(server)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type_and_policy_and_is_known_again(line: Line, name: str) -> None:
    answer = line.http.get(f"/dashboard/{name}")

    assert answer.status_code == 200
    assert answer.content_type.startswith(TYPES[Path(name).suffix])
    assert answer.data == (FOLDER / name).read_bytes()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    again = line.http.get(f"/dashboard/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_a_file_is_gzipped_for_whoever_takes_that_and_each_coding_has_its_own_etag(line: Line) -> None:
    plain = line.http.get("/dashboard/main.js")
    zipped = line.http.get("/dashboard/main.js", headers={"Accept-Encoding": "gzip, br"})

    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.data) == plain.data
    assert zipped.headers["ETag"] != plain.headers["ETag"]
    assert "Accept-Encoding" in zipped.headers["Vary"]


def test_a_browser_gets_the_page_and_curl_a_list_of_what_there_is(line: Line) -> None:
    page = line.http.get("/", headers=BROWSER)
    assert page.content_type.startswith("text/html")
    assert page.data == (FOLDER / "index.html").read_bytes()

    listed = line.http.get("/", headers={"Accept": "*/*"})
    assert listed.content_type == "application/json"
    said = listed.get_json()
    assert "/v1/metrics/by_page" in said["metrics"]
    assert "GET /v1/metrics/<metric>" in said["endpoints"]
    for path in [*said["metrics"], *said["streams"]]:
        assert line.http.get(path).status_code == 200
    assert "Accept" in page.headers["Vary"]
    assert "Accept" in listed.headers["Vary"]


@pytest.mark.parametrize("path", ["none.js", "../app.py", "%2e%2e/app.py", "pages", "vendor/", "/etc/passwd"])
def test_nothing_but_the_files_is_served(line: Line, path: str) -> None:
    answer = line.http.get(f"/dashboard/{path}")

    assert answer.status_code in (308, 404)
    assert answer.status_code == 308 or answer.content_type == "application/problem+json"


def test_every_file_together_stays_within_the_weight_of_a_first_visit() -> None:
    assert sum(len(file.gzipped) for file in dashboard_files().values()) < MAX_GZIPPED


def test_every_file_of_the_folder_has_a_type_to_be_served_as() -> None:
    assert sorted(dashboard_files()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8").replace(NAMESPACE, "")
    if name.startswith("vendor/"):  # the links in its comments lead people on, and load nothing
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)

    assert re.findall(r"(?:https?:)?//[a-z0-9-]+(?:\.[a-z0-9-]+)+", text) == []


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith((".js", ".html"))])
def test_our_own_code_makes_no_markup_of_text_and_needs_no_inline_style(name: str) -> None:
    text = (FOLDER / name).read_text("utf-8")

    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\sstyle="
    assert re.findall(markup, text) == []


def test_the_page_loads_every_module_at_once_and_no_more() -> None:
    page = (FOLDER / "index.html").read_text("utf-8")
    loaded = set(re.findall(r'(?:href|src)="/dashboard/([^"]+\.(?:js|css))"', page))

    assert loaded == {name for name in FILES if name.endswith((".js", ".css"))}


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".js")])
def test_every_module_begins_with_what_it_is(name: str) -> None:
    first = (FOLDER / name).read_text("utf-8").splitlines()[0]

    assert re.match(r"// [\"“A-Z].{20,}", first), first


def test_what_was_vendored_is_what_the_notice_says() -> None:
    notice = (ROOT / "NOTICE").read_text("utf-8")
    said = dict(re.findall(r"^ {4}(uPlot\.\S+) +([0-9a-f]{64})$", notice, re.MULTILINE))

    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / "vendor").iterdir()}
    assert found == said
