"""Backbones with one block in each stage: the same kinds of layers, in a third of the time.

For tests in which the depth of the network is not the point. There are no weights that fit, so
`--weights=none` goes with it; models saved meanwhile load anywhere.
"""

import contextlib
from unittest import mock

# To stand before the code of a process of its own.
CODE = """
from fir_tf.models import efficientnet_lite, senet
efficientnet_lite._REPEATS, senet._BLOCKS = (1,) * 7, (1,) * 4
"""


@contextlib.contextmanager
def shallow_backbones():
    """EfficientNet-Lite0 and what `fir_tf.models.senet` builds have one block in each stage."""
    from fir_tf.models import efficientnet_lite, senet

    with (
        mock.patch.object(efficientnet_lite, "_REPEATS", (1,) * 7),
        mock.patch.object(senet, "_BLOCKS", (1,) * 4),
    ):
        yield
