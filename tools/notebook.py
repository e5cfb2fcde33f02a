"""Writes examples/library.ipynb, executed, from the first section of docs/library.md.

  python tools/notebook.py

It needs nbclient and ipykernel (the extra `test`).
"""

import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parent.parent
PAGE, NOTEBOOK = ROOT / "docs" / "library.md", ROOT / "examples" / "library.ipynb"
TEXTS = (
    "# Any Keras model, with fit\n\nThe example of docs/library.md: digits that come with "
    "scikit-learn are embedded, measured and searched.",
    "## Train\n\nBatches of 8 digits x 8 images, semi-hard triplets, retrieval metrics after "
    "every epoch.",
    "## Search\n\nAn index of the training images answers the others: the query on the left, its "
    "nearest to the right.",
)


def code() -> list[str]:
    """Returns the code blocks of the page's first section, a cell each."""
    section = PAGE.read_text(encoding="utf-8").split("\n## ")[1]
    return [text.rstrip() for text in re.findall(r"^```python\n(.*?)^```", section, re.S | re.M)]


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs a notebook in an empty folder; returns it with its outputs, without what went wrong
    to say on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main() -> int:
    """Writes the notebook; returns the exit status."""
    notebook = nbformat.v4.new_notebook()
    for number, (text, program) in enumerate(zip(TEXTS, code(), strict=True)):
        notebook.cells += [
            nbformat.v4.new_markdown_cell(text, id=f"text-{number}"),
            nbformat.v4.new_code_cell(program, id=f"code-{number}"),
        ]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    NOTEBOOK.parent.mkdir(exist_ok=True)
    nbformat.write(execute(notebook), NOTEBOOK)
    print(f"wrote {NOTEBOOK}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
