"""export.py: flags -> fir_tf.serving.export.export."""

import dataclasses

from fir_tf.cli.common import define_flags, load_library, read_flags, run_script, with_run
from fir_tf.options import ExportOptions

USAGE = """Writes a run's best model as a SavedModel that TF Serving loads: image bytes in.

  python export.py --run=runs/inshop"""


def _body() -> None:
    options = with_run(read_flags(ExportOptions))
    load_library("fir_tf.serving.export").export(options)


def run() -> None:
    """Console entry point."""
    define_flags(dataclasses.fields(ExportOptions))
    run_script(_body, USAGE)
