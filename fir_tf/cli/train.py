"""train.py: flags -> Config -> fir_tf.training.from_config.train_config."""

import dataclasses
import os
import sys

from fir_tf.cli.common import define_flags, load_library, read_flags, run_script
from fir_tf.config import Config
from fir_tf.errors import FirError

USAGE = """Trains a fashion retrieval model; everything it writes goes to the folder --run.

  python train.py --flagfile=inshop.flags --data_dir=/data/In-shop --run=runs/inshop

An interrupted run goes on when the same command is given again."""


def _body() -> None:
    config = read_flags(Config)
    if len(sys.argv) == 1 and not os.path.exists(config.data_dir):
        raise FirError(
            f"no settings were given, and there is no {config.data_dir}, where the data is looked "
            "for then. Give --data_dir=..., or settings with --flagfile=inshop.flags and the like; "
            "--help lists the flags"
        )
    load_library("fir_tf.training.from_config").train_config(config)


def run() -> None:
    """Console entry point."""
    define_flags(dataclasses.fields(Config))
    run_script(_body, USAGE)
