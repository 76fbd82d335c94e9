"""The commands that help to write a config: `init` makes a project, `schema` prints what editors read.

Invariant: `init` never overwrites a file; when one is there already it writes none.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.times import format_duration
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
    template: Annotated[Template | None, typer.Option(help="What it is about.", show_default="sensors")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="A CSV, NDJSON or Parquet file of yours, to write the config for.")
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(help="With --from: how the CSV writes its times, as strptime reads it: '%d.%m.%Y %H:%M:%S'."),
    ] = None,
) -> None:
    """Write a config.yaml with its schema for editors and a notebook, and print the next three commands."""
    notes: list[str] = []
    if source is None and time_format is not None:
        raise StreamgaugeError("--time-format is how the file of --from writes its times; give both, or neither.")
    if source is None:
        chosen = template or Template.sensors
        texts, following = template_project(chosen), next_commands(folder, chosen)
    elif template is None:
        texts, following, notes = project_of_file(folder, source, time_format)
    else:
        raise StreamgaugeError("--from and --template are two ways to a config; give one of them.")
    for path in write_project(folder, texts):
        typer.echo(f"wrote {path}", err=True)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo("Next:", err=True)
    for line in following:
        typer.echo(line)


def schema() -> None:
    """Print the JSON Schema of config.yaml."""
    typer.echo(schema_text(), nl=False)


def schema_text() -> str:
    """The shipped schema."""
    from pipeline.runtime.config_schema import SCHEMA_FILE

    return SCHEMA_FILE.read_text("utf-8")


def template_project(template: Template) -> dict[str, str]:
    """The files of a project by their names."""
    return {
        CONFIG: (TEMPLATES / template / CONFIG).read_text("utf-8"),
        f"{template}.ipynb": (TEMPLATES / template / "notebook.ipynb").read_text("utf-8"),
    }


def project_of_file(folder: Path, source: Path, time_format: str | None) -> tuple[dict[str, str], list[str], list[str]]:
    """The config for a file of rows, what to type next, and what to know before.

    Raises:
        StreamgaugeError: the file cannot be read, or has no column of times.
    """
    from pipeline.runtime.config_of_file import draft_for
    from pipeline.runtime.csv_files import CsvStyle

    draft = draft_for(source, CsvStyle(time_format))
    options = shlex.join(["--stream", draft.stream, *draft.looked.style.options, "--shift-to-now"])
    following = [
        _up(folder),
        f"{_program()} replay {shlex.quote(str(source.resolve()))} {options}",
        f"{_program()} query {draft.metric} --start -{format_duration(draft.shown_ms)} --spark",
    ]
    return {CONFIG: draft.text()}, following, list(draft.notes())


def write_project(folder: Path, project: Mapping[str, str]) -> list[Path]:
    """Write the files of a project and the schema of its config, and return their paths.

    Raises:
        StreamgaugeError: one of them is there already, or the folder cannot be written.
    """
    texts = {folder / name: text for name, text in {SCHEMA: schema_text(), **project}.items()}
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
    return [
        _up(folder),
        f"{_program()} simulate --streams {STREAM_OF[template]}",
        f"{_program()} query {METRIC_OF[template]} --start -5m",
    ]


def _up(folder: Path) -> str:
    up = f"{_program()} up"
    return up if folder == Path() else f"cd {shlex.quote(str(folder))} && {up}"


def _program() -> str:
    """How to call us: by name where the shell finds it, else where we are installed."""
    installed = Path(sys.executable).with_name("streamgauge")
    return "streamgauge" if shutil.which("streamgauge") or not installed.exists() else shlex.quote(str(installed))


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (init, schema):
        app.command()(command)
