"""The notebook is the page's example, and runs."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("notebook", ROOT / "tools" / "notebook.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def read():
    return nbformat.read(tool.NOTEBOOK, as_version=4)


def outputs(notebook):
    return [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]


def test_its_code_is_that_of_the_page_and_its_outputs_are_small():
    notebook = read()
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"] == tool.code()
    assert tool.NOTEBOOK.stat().st_size < 50_000
    assert any("image/png" in out.get("data", {}) for out in outputs(notebook))


@pytest.mark.nightly
@pytest.mark.slow
def test_it_runs():
    found = outputs(tool.execute(read()))
    printed = "".join(out.text for out in found if out.output_type == "stream")
    assert "recall@1 0.9" in printed
    assert any("image/png" in out.get("data", {}) for out in found)
