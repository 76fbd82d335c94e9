"""The `lookup`, `explode`, `python` and `functions` of config.yaml: what they mean, and each mistake at its place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipeline.core.definitions import Aggregate, Lookup, Transform
from pipeline.core.programs import compile_programs
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.core.table_names import TableError
from pipeline.core.versions import version_of
from pipeline.errors import ConfigError
from pipeline.runtime import table_files
from pipeline.runtime.children import RunningChild
from pipeline.runtime.config import load_config
from pipeline.runtime.config_describe import describe
from pipeline.runtime.functions import load_functions
from pipeline.runtime.kept_config import ENV_FOLDER
from pipeline.runtime.supervisor import RUNNING_CONFIG, Up, _kept, children_of
from pipeline.runtime.table_files import read_table_file
from tests.servers import wait_for

HEAD = """\
streams:
  clicks:
    schema: {ts: timestamp, ad: string, n: "int?", tags: "list[string]?", ms: float?}
    time: {field: ts}
"""
ADS = "id,campaign,cost,active\na1,spring,1.5,true\n007,autumn,,false\n"
FUNCTIONS = """\
from pipeline import transform


@transform("score", returns={"score": "float", "words": "list[string]"})
def score(frame):
    return frame.with_columns(score=frame["n"] * 0.5, words=None)
"""


@pytest.fixture(autouse=True)
def forget_functions() -> Iterator[None]:
    before = dict(TRANSFORMS)
    yield
    TRANSFORMS.clear()
    TRANSFORMS.update(before)


def write(folder: Path, stages: str, *, functions: str | None = None, top: str = "") -> Path:
    (folder / "ads.csv").write_text(ADS)
    if functions is not None:
        (folder / "functions.py").write_text(functions)
    path = folder / "config.yaml"
    path.write_text(f"{top}{HEAD}stages:\n{stages}")
    return path


def problem_of(folder: Path, marked: str, *, functions: str | None = None, top: str = "") -> tuple[str, str]:
    """The one problem of the stages (the place where `¦` stands, and the sentence), checked to be at that place."""
    path = write(folder, marked.replace("¦", ""), functions=functions, top=top)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    [problem] = caught.value.problems
    before = f"{top}{HEAD}stages:\n{marked}".split("¦")[0]
    line, column = before.count("\n") + 1, len(before.rsplit("\n", 1)[-1]) + 1
    assert problem.startswith(f"{path}:{line}:{column}: "), problem
    return problem.split(": ", 2)[1], problem.split(": ", 2)[2].splitlines()[0]


def test_a_lookup_takes_its_defaults_from_its_name_and_field_and_its_types_from_the_file(tmp_path: Path) -> None:
    stages = (
        "  named:\n    from: clicks\n"
        "    lookup:\n      campaign: {table: ads.csv, on: ad, key: id}\n"
        "      price: {table: ads.csv, on: ad, key: id, column: cost}\n"
        "  spent: {from: named, window: {tumbling: 1m}, group_by: [campaign], aggregates: {cost: sum(price)}}\n"
    )

    config = load_config(write(tmp_path, stages), {})

    named = config.stages["named"]
    assert isinstance(named, Transform)
    assert named.lookup == {
        "campaign": Lookup("ads.csv", "ad", "id", "campaign", "string", "string"),
        "price": Lookup("ads.csv", "ad", "id", "cost", "float", "string"),
    }
    assert config.folder == str(tmp_path)
    assert compile_programs(config)["spent"].columns["price"] == pl.Float64
    assert "lookup    price = cost of ads.csv where id = ad" in describe(config)


def test_explode_and_python_give_their_columns_to_the_stages_below(tmp_path: Path) -> None:
    stages = (
        "  tagged: {from: clicks, explode: tags}\n"
        "  scored: {from: tagged, python: score}\n"
        "  low: {from: scored, filter: score < 3 AND tags <> 'x'}\n"
        "  m: {from: low, window: {tumbling: 1m}, group_by: [tags], aggregates: {s: sum(score)}}\n"
    )

    config = load_config(write(tmp_path, stages, functions=FUNCTIONS, top="functions: functions.py\n"), {})

    assert config.functions == ("functions.py",)
    columns = compile_programs(config)["m"].columns
    assert columns["tags"] == pl.String
    assert columns["score"] == pl.Float64
    assert "python    score: score float, words list[string]" in describe(config)
    assert "explode   tags" in describe(config)


LOOKUPS = [
    ("lookup: ¦5", "lookup", "must be a mapping, not 5."),
    (
        "lookup: {c: {¦tabel: ads.csv, on: ad, table: ads.csv, key: id, column: cost}}",
        "lookup.c.tabel",
        "unknown setting",
    ),
    ("lookup: {¦c: {table: ads.csv}}", "lookup.c", "needs `on`."),
    (
        "lookup: {c: {table: ¦none.csv, on: ad}}",
        "lookup.c.table",
        "none.csv cannot be read: No such file or directory.",
    ),
    ("lookup: {c: {table: ¦ads.txt, on: ad}}", "lookup.c.table", "ads.txt is not a table: a table is a file that ends"),
    (
        "lookup: {¦campaign: {table: ads.csv, on: ad}}",
        "lookup.campaign",
        "ads.csv has no column 'ad' (a `key` that is not written is `on`)",
    ),
    ("lookup: {campaign: {table: ads.csv, on: ad, key: ¦idd}}", "lookup.campaign.key", "ads.csv has no column 'idd'."),
    (
        "lookup: {¦campain: {table: ads.csv, on: ad, key: id}}",
        "lookup.campain",
        "ads.csv has no column 'campain' (a `column`",
    ),
    (
        "lookup: {c: {table: ads.csv, on: ad, key: id, column: ¦costs}}",
        "lookup.c.column",
        "ads.csv has no column 'costs'",
    ),
    (
        "lookup: {cost: {table: ads.csv, on: ¦add, key: id}}",
        "lookup.cost.on",
        "unknown field 'add'. Did you mean 'ad'?",
    ),
    (
        "lookup: {cost: {table: ads.csv, on: ¦ms, key: id}}",
        "lookup.cost.on",
        "'ms' is float; a table is joined on string,",
    ),
    (
        "lookup: {cost: {table: ads.csv, on: ¦tags, key: id}}",
        "lookup.cost.on",
        "'tags' is list[string]; a table is joined",
    ),
    (
        "lookup: {cost: {table: ads.csv, on: ¦ts, key: id}}",
        "lookup.cost.on",
        "'ts' is timestamp, and a CSV holds texts.",
    ),
    (
        "lookup: {cost: {table: ¦ads.csv, on: n, key: id}}",
        "lookup.cost.table",
        "ads.csv has 'a1' in its column 'id', which is read",
    ),
    ("lookup: {¦ms: {table: ads.csv, on: ad, key: id, column: cost}}", "lookup.ms", "'ms' is a field already."),
    (
        "derive: {cost: n}\n    lookup: {¦cost: {table: ads.csv, on: ad, key: id}}",
        "lookup.cost",
        "'cost' is a field already",
    ),
    ("lookup: {cost: {table: ads.csv, on: n, key: ¦nr}}", "lookup.cost.key", "ads.csv has no column 'nr'"),
    (
        "lookup: {id: {table: ads.csv, on: ad, key: id}, cost: {table: ads.csv, on: ¦id}}",
        "lookup.cost.on",
        "unknown field",
    ),
    ("explode: ¦tagz", "explode", "unknown field 'tagz'. Did you mean 'tags'?"),
    ("explode: ¦n", "explode", "'n' is int, and only a list can be exploded. Lists are: tags."),
    ("python: ¦scor", "python", "no function is registered as 'scor'."),
    ("window: {tumbling: 1s}\n    aggregates: {c: count}\n    ¦explode: tags", "explode", "belongs to a transform"),
]


@pytest.mark.parametrize(("setting", "place", "sentence"), LOOKUPS)
def test_one_mistake_is_one_message_at_its_place(tmp_path: Path, setting: str, place: str, sentence: str) -> None:
    where, said = problem_of(tmp_path, f"  t:\n    from: clicks\n    {setting}\n")

    assert where == f"stages.t.{place}"
    assert said.startswith(sentence)


def test_a_problem_of_a_lookup_is_not_told_again_by_the_stages_below(tmp_path: Path) -> None:
    stages = (
        "  t:\n    from: clicks\n    lookup: {cost: {table: ¦none.csv, on: ad}}\n"
        "  u: {from: t, filter: cost > 1}\n"
        "  m: {from: u, window: {tumbling: 1m}, group_by: [cost], aggregates: {n: count}}\n"
    )

    assert problem_of(tmp_path, stages)[0] == "stages.t.lookup.cost.table"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\nraise RuntimeError('no')\n", "functions.py:2: RuntimeError: no"),
        ("from pipeline import transform\ndef f(:\n", "functions.py:2: this is not Python"),
        ("import nowhere_at_all\n", "functions.py:1: ModuleNotFoundError"),
        (
            FUNCTIONS.replace('"float"', '"double"'),
            "functions.py:4: ValueError: transform 'score' returns 'score': 'double'",
        ),
        (
            FUNCTIONS + FUNCTIONS.replace("0.5", "0.7"),
            "functions.py:10: ValueError: transform 'score' is registered already",
        ),
    ],
)
def test_an_error_in_a_file_of_functions_is_a_problem_with_its_file_and_line(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = write(tmp_path, "  t: {from: clicks, python: score}\n", functions=text, top="functions: [functions.py]\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, {})

    [problem] = caught.value.problems
    assert problem.startswith(f"{path}:1:12: functions: {tmp_path}/{sentence}")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("5", "must be the path of a Python file, or a list of them, not 5."),
        ("gone.py", "cannot be read: No such file or directory."),
        ("../functions.py", "'../functions.py' must be a .py file below the folder of the config file"),
        ("functions.txt", "must be a .py file below the folder"),
    ],
)
def test_a_file_of_functions_that_cannot_be_is_one_message(tmp_path: Path, value: str, sentence: str) -> None:
    path = write(tmp_path, "  t: {from: clicks, python: score}\n", top=f"functions: {value}\n")

    with pytest.raises(ConfigError) as caught:
        load_config(path, {})

    assert sentence in caught.value.problems[0]
    assert caught.value.problems[0].startswith(f"{path}:1:12: functions: ")


def test_a_function_that_returns_a_field_is_refused(tmp_path: Path) -> None:
    text = FUNCTIONS.replace('"words"', '"ms"')

    where, said = problem_of(
        tmp_path, "  t: {from: clicks, python: ¦score}\n", functions=text, top="functions: functions.py\n"
    )

    assert where == "stages.t.python"
    assert "returns 'ms'" in said
    assert "functions.py:4" in said


def test_another_text_of_a_function_is_another_version_and_the_same_text_the_same(tmp_path: Path) -> None:
    stages = "  t: {from: clicks, python: score}\n  m: {from: t, window: {tumbling: 1m}, aggregates: {s: sum(score)}}\n"
    path = write(tmp_path, stages, functions=FUNCTIONS, top="functions: functions.py\n")

    versions = [version_of(load_config(path, {}), "m") for _ in range(2)]
    (tmp_path / "functions.py").write_text("# another line\n" + FUNCTIONS)
    versions.append(version_of(load_config(path, {}), "m"))
    (tmp_path / "functions.py").write_text(FUNCTIONS.replace("0.5", "0.7"))
    changed = load_config(path, {})

    assert len(set(versions)) == 1
    assert version_of(changed, "m") != versions[0]
    frame = pl.DataFrame({"n": [10]})
    assert TRANSFORMS["score"].function(frame)["score"].to_list() == [7.0]


def test_functions_of_a_config_read_before_do_not_meet_those_of_this_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "functions.py").write_text(FUNCTIONS.replace("0.5", "0.5 + 0" if name == "one" else "0.7"))

    assert load_functions(tmp_path / "one", ["functions.py"]) == {}
    assert load_functions(tmp_path / "two", ["functions.py"]) == {}
    assert TRANSFORMS["score"].file == str(tmp_path / "two" / "functions.py")
    assert load_functions(tmp_path, []) == {}
    assert "score" not in TRANSFORMS


def test_what_up_runs_is_a_copy_that_finds_its_functions_beside_it_and_its_tables_where_they_are(
    tmp_path: Path,
) -> None:
    original = tmp_path / "project"
    original.mkdir()
    stages = (
        "  t: {from: clicks, python: score, lookup: {cost: {table: ads.csv, on: ad, key: id}}}\n"
        "  m: {from: t, window: {tumbling: 1m}, aggregates: {s: sum(score)}}\n"
    )
    path = write(original, stages, functions=FUNCTIONS, top="functions: functions.py\n")
    config = load_config(path, {})

    kept = _kept(path, config, tmp_path)
    (original / "functions.py").write_text("broken")
    again = load_config(kept, {ENV_FOLDER: str(original)})

    assert kept == tmp_path / RUNNING_CONFIG
    assert again.folder == str(original)
    assert version_of(again, "m") == version_of(config, "m")
    metric = again.stages["m"]
    assert isinstance(metric, Aggregate)


def test_every_process_of_up_is_told_where_tables_are(tmp_path: Path) -> None:
    up = Up(tmp_path / "kept.yaml", "127.0.0.1", 8080, tmp_path, 2, None, True, False, folder=tmp_path / "project")
    children = children_of(up, None)
    assert {child.environment[ENV_FOLDER] for child in children} == {str(tmp_path / "project")}

    script = f"import os, sys; sys.exit(os.environ[{ENV_FOLDER!r}] != sys.argv[1])"
    argv = (sys.executable, "-c", script, str(tmp_path / "project"))
    running = RunningChild(replace(children[0], argv=argv))
    running.start(0.0)
    ends: list[int] = []

    def ended() -> bool:
        ends.extend(end for end in [running.reap()] if end is not None)
        return bool(ends)

    wait_for(ended, "the child to end")
    assert ends == [0]


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n1,\xff\n", "is not UTF-8 in line 2"),
        ("t.csv", b"a,b\n1,2,3\n", "is not a csv file that can be read"),
        ("t.parquet", b"PAR1 and no more", "is not a parquet file that can be read"),
        ("t.csv", b"a\n" + b"1\n" * 6, "has 6 rows; a table has at most 5"),
        ("t.csv", b"a\n" + b"1" * 99 + b"\n", "A table is held in memory by every worker"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, sentence: str
) -> None:
    monkeypatch.setattr(table_files, "MAX_ROWS", 5)
    monkeypatch.setattr(table_files, "MAX_BYTES", 100)
    (tmp_path / name).write_bytes(data)

    with pytest.raises(TableError) as caught:
        read_table_file(tmp_path / name)

    assert sentence in str(caught.value)


def test_a_csv_is_texts_and_a_parquet_file_the_types_a_field_can_have(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfid,name\n007,\n1,"a, b"\n')
    pl.DataFrame(
        {
            "i": pl.Series([1], dtype=pl.UInt8),
            "f": pl.Series([1.5], dtype=pl.Float32),
            "c": pl.Series(["a"], dtype=pl.Categorical),
            "t": pl.Series([0]).cast(pl.Datetime("us", "Europe/Paris")),
            "l": [["x"]],
        }
    ).write_parquet(tmp_path / "t.parquet")

    assert read_table_file(tmp_path / "t.csv").rows() == [("007", None), ("1", "a, b")]
    frame = read_table_file(tmp_path / "t.parquet")
    assert dict(frame.schema) == {"i": pl.Int64, "f": pl.Float64, "c": pl.String, "t": pl.Datetime("ms")}
