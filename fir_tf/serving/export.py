"""A run's best model as a SavedModel: image bytes in, embedding and categories out."""

from pathlib import Path

import tensorflow as tf

from fir_tf.errors import FirError
from fir_tf.files import replacing
from fir_tf.input.images import preprocess
from fir_tf.options import find_run
from fir_tf.retrieval.evaluate import load_model


class Servable(tf.Module):
    """The exported graph: preprocessing and network in one.

    Args:
        model: keras.Model, see `fir_tf.models.fir.build_fir`.
        config: Config; `image_size` and `resize` as in evaluation.
        categories: list of str, the names of the category output.
        top: int, categories returned for each image.
    """

    def __init__(self, model, config, categories, top):
        super().__init__(name="fir")
        self._model = model
        self._config = config
        self._names = tf.constant(categories)
        self.top = min(top, len(categories))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serve(self, image_bytes):
        """Embeds and classifies images.

        Args:
            image_bytes: string [n], JPEG, PNG, GIF or BMP files. The name ends in `_bytes`, so
                TF Serving's REST API takes `{"b64": ...}` for it.

        Returns:
            dict: `embedding` float32 [n, d], unit length; `category` string [n, top], names in
            descending order of `score` float32 [n, top]; `valid` bool [n]. An image that cannot
            be decoded has valid False, zeros and empty names; its neighbours are unaffected.
        """
        size = self._config.image_size
        pixels, valid = tf.map_fn(
            lambda contents: preprocess(contents, size, self._config.resize),
            image_bytes,
            fn_output_signature=(
                tf.TensorSpec((size, size, 3), tf.float32),
                tf.TensorSpec((), tf.bool),
            ),
        )
        outputs = self._model(pixels, training=False)
        mask = tf.cast(valid, tf.float32)[:, None]
        score, index = tf.math.top_k(outputs["category"], self.top)
        names = tf.gather(self._names, index)
        return {
            "embedding": outputs["embedding"] * mask,
            "category": tf.where(valid[:, None], names, ""),
            "score": score * mask,
            "valid": valid,
        }


def export(options):
    """Writes the SavedModel of a run.

    Args:
        options: ExportOptions.

    Returns:
        Path of the version's folder, `<output>/<version>`.

    Raises:
        FirError: if the run has no model, or the version exists.
    """
    run = find_run(options.run)
    model, config, categories = load_model(run)
    base = Path(options.output) if options.output else run / "export" / "fir"
    target = base / str(options.version or _next_version(base))
    if target.exists():
        raise FirError(
            f"`version` must be a new one. Received: {options.version}, and {target} exists"
        )
    servable = Servable(model, config, categories, options.top)
    with replacing(target) as temporary:
        tf.saved_model.save(
            servable, str(temporary), signatures={"serving_default": servable.serve}
        )
    dimension = model.output["embedding"].shape[-1]
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(
        f"SavedModel: {target} ({size / 1e6:.0f} MB)\n"
        f"  serving_default: image_bytes string [n] -> embedding float32 [n, {dimension}], "
        f"category string [n, {servable.top}], score float32 [n, {servable.top}], valid bool [n]"
    )
    return target


def _next_version(base):
    taken = [int(path.name) for path in base.glob("*") if path.name.isdigit()]
    return max(taken, default=0) + 1
