"""A network of OpenVINO or ONNX in whole numbers of 8 bits, by NNCF.

Post-training quantisation (Jacob et al. 2018, section 3): convolutions on maps multiply int8 by
int8, with a scale for each output channel of the kernel and one for the input, whose range is read
off training photos. What rounding does to the mean is corrected in the biases (Nagel et al. 2019,
section 4.2).

Chosen by measurement (benchmarks/README.md), the convolution that reads the pixels, depthwise ones,
whose channels differ in range and have little to multiply, and what is no map (pooled features,
their projection, the unit length) stay in float.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TypeVar

import numpy as np

from fir_tf.errors import FirError
from fir_tf.extras import require
from fir_tf.serving.formats import Export
from fir_tf.serving.formats.representative import representative_photos

Model = TypeVar("Model")
"""openvino.Model or onnx.ModelProto."""


def int8_photos(export: Export) -> list[np.ndarray]:
    """Returns the training photos that ranges are read off.

    Args:
        export: Export.

    Returns:
        list of float32 [1, s, s, 3], fitted as the network takes them.

    Raises:
        FirError: if NNCF is missing, or no training photo of the run can be read.
    """
    _nncf()
    train = export.parts().part("train")
    photos = list(representative_photos(export, train))
    if not photos:
        raise FirError(
            "`precision` int8 reads the range of each layer off training photos, and of "
            f"{train.source} none can be read. Give the data that the run was trained on as "
            "--data_dir, or --precision=float32"
        )
    return photos


def quantised(
    model: Model, photos: Sequence[np.ndarray | dict[str, np.ndarray]], floats: Sequence[str]
) -> Model:
    """Returns the model with convolutions in int8.

    Args:
        model: openvino.Model or onnx.ModelProto.
        photos: what it takes, a batch of one each.
        floats: sequence of str, names of the nodes that stay in float.

    Raises:
        FirError: if NNCF is missing.
    """
    nncf = _nncf()
    # The progress goes where messages go.
    with contextlib.redirect_stdout(sys.stderr):
        return nncf.quantize(
            model,
            nncf.Dataset(photos),
            subset_size=len(photos),
            ignored_scope=nncf.IgnoredScope(names=list(floats), validate=False),
        )


def _nncf() -> ModuleType:
    # Otherwise its import tells its makers of each use, without asking.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = require("nncf", "int8")
    nncf.set_log_level(logging.ERROR)
    return nncf
