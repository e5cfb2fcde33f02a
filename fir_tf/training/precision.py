"""Number formats: which one, and where it holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf


def choose_precision(name: str) -> str:
    """Returns "float32", "bfloat16" or "float16" for `--mixed_precision`.

    "auto" is bfloat16 on TPUs, on GPUs of compute capability 8 and up, and on CPUs with
    bfloat16 instructions; float16 on GPUs of capability 7; float32 elsewhere.

    Args:
        name: str, the flag's value.
    """
    if name != "auto":
        return name
    if tf.config.list_logical_devices("TPU"):
        return "bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def _cpu_flags() -> set[str]:
    """The instruction sets Linux names; empty on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split("\n"):
            if line.startswith("flags"):
                return set(line.split())
    return set()


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Builds layers under the Keras policy of a precision; restores the one before."""
    before = keras.mixed_precision.global_policy()
    name = precision if precision == "float32" else f"mixed_{precision}"
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
