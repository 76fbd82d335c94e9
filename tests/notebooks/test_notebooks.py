"""The notebooks run from top to bottom, and are kept without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
TEMPLATE_NAMES = ("sensors", "clickstream")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SENSORS, CLICKSTREAM = TEMPLATES = [ROOT / f"pipeline/templates/{name}/notebook.ipynb" for name in TEMPLATE_NAMES]
CELL_TIMEOUT_S = 60  # the slowest starts a whole server


def name_of(path: Path) -> str:
    return path.parent.name if path in TEMPLATES else path.stem


def read(path: Path) -> NotebookNode:
    return cast(NotebookNode, nbformat.read(path, as_version=4))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TEMPLATES], ids=name_of)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = read(path).cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.filterwarnings("default")  # of the Jupyter libraries, which warn of one another
@pytest.mark.parametrize("path", [*NOTEBOOKS, SENSORS, pytest.param(CLICKSTREAM, marks=pytest.mark.slow)], ids=name_of)
def test_a_notebook_runs_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(path)
    own = nbformat.v4.new_code_cell("import api.demo\napi.demo.connect = api.demo.DemoClient")  # type: ignore[no-untyped-call]
    notebook.cells.insert(0, own)  # a server of its own, whatever runs on this machine
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert all(output.output_type != "error" for cell in notebook.cells for output in cell.get("outputs", []))
