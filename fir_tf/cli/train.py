"""train.py: flags -> Config -> fir_tf.training.loop.train."""

import dataclasses

from fir_tf.cli.common import define_flags, load_library, read_flags, run_script
from fir_tf.config import Config

USAGE = """Trains a fashion retrieval model; everything it writes goes to the folder --run.

  python train.py --flagfile=inshop.flags --data_dir=/data/In-shop --run=runs/inshop

An interrupted run goes on when the same command is given again."""


def _body():
    config = read_flags(Config)
    load_library("fir_tf.training.loop").train(config)


def run():
    """Console entry point."""
    define_flags(dataclasses.fields(Config))
    run_script(_body, USAGE)
