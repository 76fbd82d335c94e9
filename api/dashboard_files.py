"""The dashboard at `/`: static files, read once and served from memory, and the index for whoever asks for no page.

Invariant: the policy of every file lets a page run only our own scripts and speak only to this server, and takes no
text for markup (Trusted Types), so what a sender wrote into an event stays text.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from flask import Blueprint, Response, abort, current_app, request

from api.answers import json_response
from api.parameters import no_parameters
from pipeline.core.definitions import Config

PAGE = "index.html"
# Named here and not guessed: `mimetypes` answers by what the machine has registered.
TYPES: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304: a new version is seen at once
    "Vary": "Accept, Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file of the dashboard as it goes out; each coding has an ETag of its own."""

    content_type: str
    plain: bytes
    gzipped: bytes
    digest: str

    def response(self) -> Response:
        """Answer the current request with this file: gzipped where that is taken, 304 where it is known."""
        coded = request.accept_encodings["gzip"] > 0
        answer = Response(self.gzipped if coded else self.plain, 200, HEADERS, content_type=self.content_type)
        if coded:
            answer.headers["Content-Encoding"] = "gzip"
        answer.set_etag(f"{self.digest}-gzip" if coded else self.digest)
        answer.make_conditional(request)
        return answer


@cache
def dashboard_files() -> dict[str, StaticFile]:
    """Every file of the dashboard, by its path below `/dashboard/`."""
    return dict(_files(resources.files("api") / "dashboard", ""))


def _files(folder: Traversable, prefix: str) -> list[tuple[str, StaticFile]]:
    found: list[tuple[str, StaticFile]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        elif (content_type := TYPES.get(entry.name.rpartition(".")[2])) is not None:
            content = entry.read_bytes()
            zipped = gzip.compress(content, mtime=0)
            digest = hashlib.sha256(content).hexdigest()[:32]
            found.append((f"{prefix}{entry.name}", StaticFile(content_type, content, zipped, digest)))
    return found


def dashboard_blueprint(config: Config) -> Blueprint:
    """`/` and the files it loads."""
    blueprint = Blueprint("dashboard", __name__)
    files = dashboard_files()

    @blueprint.get("/")
    def dashboard() -> Response:
        no_parameters(request.args)
        if wants_page():
            return files[PAGE].response()
        answer = json_response(index(config))
        answer.headers["Vary"] = HEADERS["Vary"]
        return answer

    @blueprint.get("/dashboard/<path:file>")
    def dashboard_file(file: str) -> Response:
        no_parameters(request.args)
        if file not in files:
            abort(404, f"there is no file {file[:80]!r} of the dashboard; it begins at /")
        return files[file].response()

    return blueprint


def wants_page() -> bool:
    """A browser names HTML among what it takes; curl and libraries take anything, and get what they can read."""
    return any(kind == "text/html" for kind, _ in request.accept_mimetypes)


def index(config: Config) -> dict[str, object]:
    """What there is: the metrics, the streams, and every endpoint of the running app."""
    return {
        "metrics": [f"/v1/metrics/{stage.name}" for stage in config.aggregates()],
        "streams": [f"/v1/streams/{name}/events" for name in config.streams],
        "endpoints": [f"{method} {path}" for method, path in endpoints()],
    }


def endpoints() -> list[tuple[str, str]]:
    """(method, path) of every endpoint of the running app that does something, by path."""
    rules = (rule for rule in current_app.url_map.iter_rules() if "<any(" not in rule.rule)
    methods = (
        (rule.rule, method) for rule in rules for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    )
    return [(method, path) for path, method in sorted(methods)]
