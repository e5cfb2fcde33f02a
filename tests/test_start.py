"""What a command imports before it answers."""

import json
import subprocess
import sys

import pytest
from commands import done
from test_index import make_photos, make_run

from fir_tf.options import ExportOptions
from fir_tf.search.indexing import build
from fir_tf.search_options import IndexOptions
from fir_tf.serving.export import export

SLOW = ("tensorflow", "keras", "matplotlib", "pandas", "scipy")
# A script as it is started, with what it has imported at the end.
CODE = """
import sys
sys.argv = ["search.py", *sys.argv[1:]]
from fir_tf.cli.search import run
try:
    run()
finally:
    print(*(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """(a run, its photos, an index that the run has made)."""
    root = tmp_path_factory.mktemp("start")
    run, photos = make_run(root / "run"), make_photos(root / "photos")
    made = IndexOptions(model=str(run), images=str(photos), index=str(root / "index"))
    build(made)
    return run, photos, root / "index"


def answered(*arguments):
    """Returns (what search.py query answers, the modules it has imported)."""
    command = [sys.executable, "-c", CODE, "query", *map(str, arguments), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    return json.loads(ended.stdout), set(lines[0].split())


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        pytest.param("openvino", ("openvino",), marks=pytest.mark.slow),
        ("onnx", ("onnxruntime", "tf2onnx")),
    ],
)
def test_an_exported_network_answers_as_the_run_without_tensorflow(kind, needed, shop, tmp_path):
    for name in needed:
        pytest.importorskip(name)
    run, photos, index = shop
    exported = export(ExportOptions(run=str(run), output=str(tmp_path / kind), format=kind))
    asked = [*sorted(photos.rglob("1.jpg"))[:2], f"--index={index}", "--where=category != 'Hats'"]
    found, imported = answered(*asked, f"--model={exported.parent}")
    assert needed[0] in imported and not imported & set(SLOW)
    expected = json.loads(done("search.py", "query", *asked, "--json")[0])
    for one, other in zip(found, expected, strict=True):
        assert one["photos"] == other["photos"] and len(one["results"]) == 5
        for mine, theirs in zip(one["results"], other["results"], strict=True):
            score, wanted = mine.pop("score"), theirs.pop("score")
            assert mine == theirs and score == pytest.approx(wanted, abs=1e-4)
