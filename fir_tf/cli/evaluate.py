"""evaluate.py: flags -> fir_tf.evaluation.evaluate.evaluate."""

import dataclasses

from fir_tf.cli.common import define_flags, load_library, read_flags, run_script, with_run
from fir_tf.options import EvaluateOptions

USAGE = """Measures a run: category accuracy, recall@k, mAP@R; writes metrics.json, pictures and
report.html: what the run is worth in words, which queries fail, which categories are confused.

  python evaluate.py --run=runs/inshop
  python evaluate.py --run=runs/inshop --compare=runs/other"""


def _body() -> None:
    options = with_run(read_flags(EvaluateOptions))
    load_library("fir_tf.evaluation.evaluate").evaluate(options)


def run() -> None:
    """Console entry point."""
    define_flags(dataclasses.fields(EvaluateOptions))
    run_script(_body, USAGE)
