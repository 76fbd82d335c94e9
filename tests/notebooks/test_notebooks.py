"""The notebooks are kept without outputs, and run from top to bottom, on a server that runs and on their own."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from ruamel.yaml import YAML

from pipeline.core.blocks import decode_block, encode_block
from pipeline.core.programs import compile_programs
from pipeline.rim import keys
from pipeline.runtime.config import load_config
from tests.product.product import SHIPPED, Product, listens

ROOT = Path(__file__).parents[2]
TEMPLATE_NAMES = ("sensors", "clickstream")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 120  # the slowest starts a whole server, on two cores that others share
NOBODY = "http://127.0.0.1:9"
SENSORS, CLICKSTREAM = TEMPLATES = [ROOT / f"pipeline/templates/{name}/notebook.ipynb" for name in TEMPLATE_NAMES]


def name_of(path: Path) -> str:
    return path.parent.name if path in TEMPLATES else path.stem


def read(path: Path) -> NotebookNode:
    return cast(NotebookNode, nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]


def run(path: Path) -> str:
    """Run a notebook from top to bottom, and return all that it showed as text."""
    notebook = read(path)
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "error" for output in outputs)
    return "\n".join(output.get("text") or output.data.get("text/plain", "") for output in outputs)


def declared(path: Path) -> str | None:
    """The pipeline that a notebook declares: the text its cells give `CONFIG`."""
    for cell in read(path).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Assign) and "CONFIG" in map(ast.unparse, node.targets):
                return str(ast.literal_eval(node.value))
    return None


def config_of_all(folder: Path) -> Path:
    """The shipped config with the streams and stages of every notebook added, as their printed advice says."""
    yaml = YAML(typ="rt", pure=True)  # which keeps the order of fields and values, as a stage's version does
    whole: dict[str, Any] = yaml.load(SHIPPED)
    for path in NOTEBOOKS:
        for section, entries in yaml.load(declared(path) or "{}").items():
            assert not whole[section].keys() & entries.keys(), f"{path.name}: a {section} of another notebook"
            whole[section] |= entries
    text = io.StringIO()
    yaml.dump(whole, text)
    (folder / "config.yaml").write_text(text.getvalue())
    return folder / "config.yaml"


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    with Product(tmp_path / "product", "--no-demo", config=config_of_all(tmp_path)) as running:
        yield running.wait_until_ready()


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TEMPLATES], ids=name_of)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = read(path).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_page_that_the_documentation_lists(path: Path) -> None:
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert f"(../notebooks/{path.name})" in (ROOT / "docs/README.md").read_text("utf-8")


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # of the Jupyter libraries, which warn of one another
def test_every_notebook_runs_with_a_server_and_trust_finds_a_number_that_somebody_changed(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMGAUGE_URL", product.url)
    shown = {path.stem: run(path) for path in NOTEBOOKS}

    assert [name for name, text in shown.items() if f"'{product.url}'" not in text] == []
    assert re.findall(r"(\w+): (\d+) differences in (?!0 )\d+ rows", shown["05_trust"]) == [
        ("audited_status", "0"),
        ("audited_minutes", "0"),
        ("audited_visits", "0"),
    ]

    change_one_count(product, "audited_minutes")
    again = run(next(path for path in NOTEBOOKS if path.stem == "05_trust"))

    assert "duplicates=10000" in again, "the log was sent twice"
    assert re.findall(r"(\w+): ([1-9]\d*) differences", again) == [("audited_minutes", "1")]
    found = re.search(r"(\d+) +(\d+) +audited_minutes", again)  # stored, recomputed, metric
    assert found is not None, again
    assert int(found[1]) == int(found[2]) + 1


def change_one_count(product: Product, metric: str) -> None:
    """What `redis-cli HSET` does to a published result: one more in the one cell of its one block."""
    config = product.folder.parent / "config.yaml"
    version = compile_programs(load_config(config, {}))[metric].version
    row = product.get(f"/v1/metrics/{metric}", start="2015-05-01", limit=1)["data"][0]
    key = keys.result(metric, version, row["window_start"], row["window_end"])
    with product.redis() as client:
        block = decode_block(cast(bytes, client.execute_command("HGET", key, "b0")))
        assert block.records == row["requests"].to_bytes(8, "little")
        more = replace(block, records=(row["requests"] + 1).to_bytes(8, "little"))
        client.execute_command("HSET", key, "b0", encode_block(more))


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "path",
    [NOTEBOOKS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in (*NOTEBOOKS[1:], SENSORS, CLICKSTREAM))],
    ids=name_of,
)
def test_a_notebook_runs_without_a_server_on_one_of_its_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMGAUGE_URL", NOBODY)
    shown = run(path)
    ports = [int(port) for port in re.findall(r"'http://127\.0\.0\.1:(\d+)'", shown)]
    assert len(ports) == 1
    assert not listens(ports[0]), "its server outlives it"
