"""The commands that help to write a config: `init` makes a project, `schema` prints what editors read.

Invariant: `init` never overwrites a file; when one is there already it writes none.
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StreamgaugeError

TEMPLATES = Path(__file__).parents[1] / "templates"
CONFIG, SCHEMA = "config.yaml", "config.schema.json"


class Template(StrEnum):
    sensors = "sensors"
    clickstream = "clickstream"


STREAM_OF = {Template.sensors: "sensors", Template.clickstream: "pageviews"}
METRIC_OF = {Template.sensors: "sensor_climate", Template.clickstream: "views_by_section"}


def init(
    folder: Annotated[Path, typer.Argument(help="Where; it is made if it is not there.")] = Path(),
    template: Annotated[Template, typer.Option(help="What it is about.")] = Template.sensors,
) -> None:
    """Write a config.yaml with its schema for editors and a notebook, and print the next three commands."""
    written = write_project(folder, template)
    for path in written:
        typer.echo(f"wrote {path}", err=True)
    typer.echo("Next:", err=True)
    for line in next_commands(folder, template):
        typer.echo(line)


def schema() -> None:
    """Print the JSON Schema of config.yaml."""
    typer.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The shipped schema."""
    from pipeline.runtime.config_schema import SCHEMA_FILE

    return SCHEMA_FILE.read_text("utf-8")


def write_project(folder: Path, template: Template) -> list[Path]:
    """Write the files of a project, and return their paths.

    Raises:
        StreamgaugeError: one of them is there already, or the folder cannot be written.
    """
    texts = {
        folder / CONFIG: (TEMPLATES / template / CONFIG).read_text("utf-8"),
        folder / SCHEMA: schema_text(),
        folder / f"{template}.ipynb": (TEMPLATES / template / "notebook.ipynb").read_text("utf-8"),
    }
    if present := [str(path) for path in texts if path.exists()]:
        raise StreamgaugeError(f"{present[0]} exists already, so nothing was written. Name another folder to write to.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise StreamgaugeError(f"{error.filename}: cannot be written: {error.strerror}.") from error
    return list(texts)


def next_commands(folder: Path, template: Template) -> list[str]:
    """What to type next; each but the first in another terminal, while `up` runs."""
    up = "streamgauge up" if folder == Path() else f"cd {shlex.quote(str(folder))} && streamgauge up"
    return [
        up,
        f"streamgauge simulate --streams {STREAM_OF[template]}",
        f"streamgauge query {METRIC_OF[template]} --start -5m",
    ]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (init, schema):
        app.command()(command)
