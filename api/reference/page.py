"""The reference as pages: HTML without scripts, made of the document, which works offline and under any policy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from api.reference.error_codes import ERROR_CODES, ERRORS_PATH

STYLE_PATH = "/docs/style.css"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; }
section { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); margin-top: 2rem; }
h3 code { font-size: 1.1em; }
""".lstrip()


def docs_page(document: Mapping[str, Any]) -> str:
    """The page of a document: every endpoint with its parameters, an example and its problems."""
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    tags = [tag["name"] for tag in document["tags"]]
    links = "".join(f'<li><a href="#{_anchor(tag)}">{escape(tag)}</a></li>' for tag in tags)
    groups = "".join(_group(tag, (each for each in operations if tag in each[2]["tags"])) for tag in tags)
    about = escape(document["info"]["description"])
    return _page(
        "Streamgauge HTTP API",
        f'<p>{about} As <a href="/openapi.json">OpenAPI 3.1</a>; what went wrong, by '
        f'<a href="{ERRORS_PATH}">error code</a>.</p><ul>{links}</ul>{groups}',
    )


def errors_page() -> str:
    """The page that the `type` of a problem points to."""
    entries = "".join(
        f'<section id="{code}"><h2><code>{code}</code></h2><p>{_text(meaning)} {_text(way_out)}</p></section>'
        for code, (meaning, way_out) in sorted(ERROR_CODES.items())
    )
    return _page("Streamgauge errors", f"<p>What each <code>code</code> of a problem means.</p>{entries}")


def _group(tag: str, operations: Iterable[tuple[str, str, Mapping[str, Any]]]) -> str:
    listed = "".join(_operation(*each) for each in operations)
    return f'<h2 id="{_anchor(tag)}">{escape(tag.capitalize())}</h2>{listed}'


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    examples = [content["example"] for content in success["content"].values() if "example" in content]
    shown = "".join(f"<pre>{escape(json.dumps(example, indent=1))}</pre>" for example in examples)
    kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in success["content"])
    statuses = ", ".join(status for status in operation["responses"] if not status.startswith("2"))
    return (
        f'<section id="{operation["operationId"]}"><h3><code>{method.upper()} {escape(path)}</code></h3>'
        f"<p><strong>{escape(operation['summary'])}.</strong> {_text(operation['description'])}</p>"
        f"{_parameters(operation['parameters'])}<p>Answers {kinds}; besides: {statuses}.</p>{shown}</section>"
    )


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = "".join(map(_parameter, parameters))
    return f"<table><tr><th>Parameter</th><th>In</th><th>Meaning</th></tr>{rows}</table>" if rows else ""


def _parameter(about: Mapping[str, Any]) -> str:
    place = f"{about['in']}{', needed' if about['required'] else ''}"
    meaning = f"{_text(about['description'])}{_values(about['schema'])}"
    return f"<tr><td><code>{escape(about['name'])}</code></td><td>{place}</td><td>{meaning}</td></tr>"


def _values(schema: Mapping[str, Any]) -> str:
    values = [str(value) for value in schema.get("enum", ())]
    return "" if not values else f" One of {', '.join(f'<code>{escape(value)}</code>' for value in values)}."


def _text(text: str) -> str:
    """Plain text, what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def _anchor(text: str) -> str:
    return text.replace(" ", "-")


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="{STYLE_PATH}"></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )
