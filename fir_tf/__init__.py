"""Fashion image retrieval in TensorFlow and Keras.

What `__all__` names is stable: it keeps its meaning and its arguments until the next major version,
or goes with a warning first. docs/library.md shows it at work.
"""

from typing import TYPE_CHECKING

from fir_tf import onednn
from fir_tf.lazy import lazy

if TYPE_CHECKING:
    from fir_tf import datasets, keras, samplers
    from fir_tf.config import Config, InputSettings, LoopSettings, ModelSettings
    from fir_tf.datasets.catalogue import Catalogue
    from fir_tf.errors import FirError
    from fir_tf.evaluation.embedder import Embedder
    from fir_tf.evaluation.measure import measure
    from fir_tf.evaluation.metrics import retrieval_metrics
    from fir_tf.losses.objective import make_objective
    from fir_tf.models.fir import build_fir
    from fir_tf.models.saving import load_model
    from fir_tf.neighbours import top_k
    from fir_tf.options import Improvements
    from fir_tf.registry import register
    from fir_tf.run import load_run
    from fir_tf.search.conditions import Filter
    from fir_tf.search.index import Index
    from fir_tf.training.loop import train
    from fir_tf.training.trainer import Parts

__version__ = "0.1.0"

__all__ = [
    "Catalogue",
    "Config",
    "Embedder",
    "Filter",
    "FirError",
    "Improvements",
    "Index",
    "InputSettings",
    "LoopSettings",
    "ModelSettings",
    "Parts",
    "build_fir",
    "datasets",
    "keras",
    "load_model",
    "load_run",
    "make_objective",
    "measure",
    "register",
    "retrieval_metrics",
    "samplers",
    "top_k",
    "train",
]

onednn.switch_on()

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Catalogue": "fir_tf.datasets.catalogue",
        "Config": "fir_tf.config",
        "Embedder": "fir_tf.evaluation.embedder",
        "Filter": "fir_tf.search.conditions",
        "FirError": "fir_tf.errors",
        "Improvements": "fir_tf.options",
        "Index": "fir_tf.search.index",
        "InputSettings": "fir_tf.config",
        "LoopSettings": "fir_tf.config",
        "ModelSettings": "fir_tf.config",
        "Parts": "fir_tf.training.trainer",
        "build_fir": "fir_tf.models.fir",
        "datasets": "fir_tf.datasets",
        "keras": "fir_tf.keras",
        "load_model": "fir_tf.models.saving",
        "load_run": "fir_tf.run",
        "make_objective": "fir_tf.losses.objective",
        "measure": "fir_tf.evaluation.measure",
        "register": "fir_tf.registry",
        "retrieval_metrics": "fir_tf.evaluation.metrics",
        "samplers": "fir_tf.samplers",
        "top_k": "fir_tf.neighbours",
        "train": "fir_tf.training.loop",
    },
)
