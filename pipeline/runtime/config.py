"""config.yaml and the environment, read to a checked `Config`.

Every problem of the file is found in one go, each at file:line:column; what is designed and not built yet is refused by
name. A `Config` that comes out of here compiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pipeline.core.column_types import stream_columns
from pipeline.core.definitions import Aggregate, Config, Session, Stage, Stream, Transform
from pipeline.core.expressions import Expression, compile_expression
from pipeline.core.registry import registered_sources
from pipeline.core.spelling import did_you_mean
from pipeline.core.steps import columns_after
from pipeline.errors import ConfigError
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import TopShape, redis_url
from pipeline.runtime.config_stages import build_stages
from pipeline.runtime.config_streams import build_streams
from pipeline.runtime.config_transforms import Sources
from pipeline.runtime.config_windows import MANY_PANES, pane_count
from pipeline.runtime.config_yaml import open_document
from pipeline.runtime.functions import load_functions
from pipeline.runtime.kept_config import ENV_FOLDER, ENV_TABLES

ENV_PREFIX = "STREAMGAUGE_"
ENV_TEST_PREFIX = "STREAMGAUGE_TEST_"
ENV_REDIS_URL = "STREAMGAUGE_REDIS__URL"
ENV_REDIS_URL_FILE = "STREAMGAUGE_REDIS__URL_FILE"
ENV_API_URL = "STREAMGAUGE_URL"  # of the API that notebooks use: no setting of the file, and no typo of one
ENV_NAMES = (ENV_REDIS_URL, ENV_REDIS_URL_FILE, ENV_FOLDER, ENV_TABLES, ENV_API_URL)
ENV_LIKENESS = 0.8  # of an unknown name to one of ours, above which it is a typo and not another program's


def load_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """Read and check a config file; `STREAMGAUGE_REDIS__URL` (or `…_FILE`) stands above its `redis.url`.

    The paths of tables start at the file's folder, or at `STREAMGAUGE_CONFIG_FOLDER`: `up` runs a copy of the file, and
    the types of tables are those of its copies in `STREAMGAUGE_CONFIG_TABLES`.

    Raises:
        ConfigError: with every problem of the file and the environment.
    """
    env_problems, env_url = _read_environment(environ)
    try:
        config = _read_file(str(path), environ.get(ENV_FOLDER) or str(Path(path).parent), environ.get(ENV_TABLES))
    except ConfigError as error:
        raise ConfigError([*error.problems, *env_problems]) from error
    if env_problems:
        raise ConfigError(env_problems)
    return replace(config, redis_url=env_url or config.redis_url, path=str(path))


def _read_file(path: str, folder: str, kept_tables: str | None) -> Config:
    document = open_document(path)
    report = Report(document)
    top = report.fit(TopShape, (), document.root, {})
    errors = load_functions(Path(path).parent, top.functions) if top is not None else {}
    for problem in errors.values():
        report.add(("functions",), str(problem))
    streams, stages = _build(
        report, document.root, top, Sources(folder, kept_tables, functions_failed=bool(errors) or top is None)
    )
    report.raise_if_any()
    assert top is not None, "a misfit is a problem"
    functions = tuple(dict.fromkeys(top.functions))
    return Config(
        streams,
        stages,
        top.default_stream,
        top.redis.url,
        folder=folder,
        functions=functions,
        sources=registered_sources() if functions else {},
        kept_tables=kept_tables,
    )


def _build(
    report: Report, root: object, top: TopShape | None, sources: Sources
) -> tuple[dict[str, Stream], dict[str, Any]]:
    """Check the sections as far as they are mappings, also when the top of the file has a problem of its own."""
    raw_streams, raw_stages = _section(root, "streams"), _section(root, "stages")
    streams, columns = build_streams(report, raw_streams) if _has(root, "streams") else ({}, {})
    stages = build_stages(report, raw_stages, columns, streams, sources)
    default = top.default_stream if top is not None else None
    if default is not None and default not in raw_streams:
        report.add(("default_stream",), f"unknown stream '{default}'.{did_you_mean(default, raw_streams)}")
    return streams, stages


def _has(root: object, name: str) -> bool:
    return isinstance(root, dict) and isinstance(root.get(name), dict)


def _section(root: object, name: str) -> dict[str, Any]:
    return root[name] if isinstance(root, dict) and _has(root, name) else {}


def _read_environment(environ: Mapping[str, str]) -> tuple[list[str], str | None]:
    problems = [
        f"environment: {name}: unknown setting.{did_you_mean(name, ENV_NAMES)}"
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and not name.startswith(ENV_TEST_PREFIX) and _is_typo(name)
    ]
    if ENV_REDIS_URL in environ and ENV_REDIS_URL_FILE in environ:
        problems.append(f"environment: {ENV_REDIS_URL} and {ENV_REDIS_URL_FILE} are both set. Unset one.")
        return problems, None
    try:
        return problems, _env_redis_url(environ)
    except ValueError as error:
        return [*problems, f"environment: {error}"], None


def _is_typo(name: str) -> bool:
    """`__` stands for a section of the file, so such a name can only be meant for us."""
    known = [each.removeprefix(ENV_PREFIX) for each in ENV_NAMES]  # what all have in common makes none alike
    near = get_close_matches(name.removeprefix(ENV_PREFIX), known, n=1, cutoff=ENV_LIKENESS)
    return name not in ENV_NAMES and ("__" in name or bool(near))


def _env_redis_url(environ: Mapping[str, str]) -> str | None:
    if ENV_REDIS_URL in environ:
        name, value = ENV_REDIS_URL, environ[ENV_REDIS_URL]
    elif ENV_REDIS_URL_FILE in environ:
        name = ENV_REDIS_URL_FILE
        try:
            value = Path(environ[name]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}: the file {environ[name]} cannot be read: {error}.") from error
    else:
        return None
    try:
        return redis_url(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def config_warnings(config: Config) -> list[str]:
    """Return what is allowed and probably not meant: conditions that a null makes null, casts that stop, many panes."""
    return [warning for stage in config.stages.values() for warning in _stage_warnings(config, stage)]


def _stage_warnings(config: Config, stage: Stage) -> Iterator[str]:
    columns, nullable = _columns_before(config, stage)
    if isinstance(stage, Transform):
        conditions = {"filter": stage.filter} if stage.filter is not None else {}
        computed = {f"derive.{name}": text for name, text in stage.derive.items()}
        lost = "are filtered out"
    else:
        conditions = {f"aggregates.{each.name}": each.where for each in stage.aggregates if each.where is not None}
        computed, lost = {}, "are left out of it"
        yield from _pane_warnings(stage)
    for setting, text in conditions.items():
        for name in compile_expression(text, columns).null_from(columns, nullable):
            yield (
                f"stages.{stage.name}.{setting}: events without '{name}' {lost}, since null is not true. "
                f"Write COALESCE({name}, …) or {name} IS NULL OR … if they should stay."
            )
    for setting, text in (conditions | computed).items():
        if compile_expression(text, columns).may_fail:
            yield (
                f"stages.{stage.name}.{setting}: fails on values that do not convert, and such an event becomes a "
                "dead letter. TRY_CAST gives null instead."
            )


def _pane_warnings(stage: Aggregate) -> Iterator[str]:
    if isinstance(stage.window, Session) or (count := pane_count(stage.window)) <= MANY_PANES:
        return
    yield (
        f"stages.{stage.name}.window: one window is merged from {count:,} panes, each time it closes or is asked for. "
        f"At most {MANY_PANES:,} are reasonable: choose a longer `every` that divides the window."
    )


def _columns_before(config: Config, stage: Stage) -> tuple[dict[str, Any], set[str]]:
    """Return the columns that reach a stage and those of them that may be null."""
    stream = config.stream_of(stage)
    columns = stream_columns(stream)
    nullable = {each.name for each in stream.fields if each.nullable}
    for above in config.transforms_of(stage):
        derived = {name: compile_expression(text, columns) for name, text in above.derive.items()}
        nullable |= {name for name, each in derived.items() if _may_be_null(each, columns, nullable)}
        nullable |= above.lookup.keys() | (above.python.returns.keys() if above.python else set())
        columns = columns_after(above, columns)
    return columns, nullable


def _may_be_null(expression: Expression, columns: Mapping[str, Any], nullable: set[str]) -> bool:
    return bool(expression.null_from(columns, nullable))
