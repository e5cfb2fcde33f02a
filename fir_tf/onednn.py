"""TensorFlow's oneDNN kernels: on, whatever the x86 processor, unless the user has set them.

TensorFlow 2.15 to 2.21 switch them on by themselves only where the processor has VNNI, bfloat16 or
AMX instructions. Elsewhere (AVX2 only: most laptops, AMD servers before Zen 4) they are there and
off, which can nearly halve the speed of training. benchmarks/README.md has the measurements.
"""

import logging
import os
import platform
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def switch_on() -> None:
    """Sets the environment variable that TensorFlow reads once, when it is imported.

    A value that is there already stays. Where TensorFlow was imported before without these
    kernels, nothing can be changed any more: one line is logged that says so.
    """
    if VARIABLE in os.environ or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    if "tensorflow" not in sys.modules:
        os.environ[VARIABLE] = "1"
    elif not is_on():
        logging.getLogger(__name__).warning(
            "TensorFlow was imported before fir_tf and runs without its oneDNN kernels, which "
            "makes training up to 1.8 times as slow on this processor: import fir_tf first, or "
            "set %s=1 (0 keeps them off without this line)",
            VARIABLE,
        )


def is_on() -> bool:
    """Returns whether the TensorFlow of this process uses its oneDNN kernels; imports it."""
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())
