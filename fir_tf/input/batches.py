"""tf.data pipelines: training batches by (seed, step), and whole catalogues in order."""

import numpy as np
import tensorflow as tf

from fir_tf.input.augment import training_view
from fir_tf.input.images import guarded, read_and_preprocess


def training_batches(catalogue, plan, config, start_step=0):
    """Returns the endless stream of training batches from `start_step` on.

    Batch number `step` is a pure function of (catalogue, config, step): reached from step 0 or
    by resuming, it has the same pixels.

    Args:
        catalogue: Catalogue that the plan's rows refer to.
        plan: see `fir_tf.input.plans.make_plan`.
        config: Config; the input flags.
        start_step: int, the first step.

    Returns:
        tf.data.Dataset of dicts: `images` float32 [n, image_size, image_size, 3] in [0, 255],
        `category` int32 [n], `item` int32 [n], `row` int32 [n] (row of the catalogue), `valid`
        bool [n]. n is `plan.size`. An image that cannot be read is zeros, with both labels -1
        and valid False: it takes no part in any loss.
    """
    files = tf.constant(catalogue.files())
    category, item = tf.constant(catalogue.category), tf.constant(catalogue.item)
    # Another stream than the plan's own, so that crops and choice of images are independent.
    base = tf.constant([config.seed, 2], tf.int32)
    shape = (config.image_size, config.image_size, 3)

    def examples(step):
        seed = tf.random.fold_in(base, step)
        seeds = tf.random.stateless_uniform(
            [plan.size, 2], seed, minval=None, maxval=None, dtype=tf.int32
        )
        return tf.data.Dataset.from_tensor_slices((plan(step), seeds))

    def load(row, seed):
        images, valid = guarded(
            lambda path, seed: training_view(tf.io.read_file(path), seed, config),
            (files[row], seed),
            shape,
        )
        return {
            "images": images,
            "category": tf.where(valid, category[row], -1),
            "item": tf.where(valid, item[row], -1),
            "row": row,
            "valid": valid,
        }

    dataset = tf.data.Dataset.counter(start=start_step).flat_map(examples)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(plan.size, drop_remainder=True)
    if config.rand_augment:
        dataset = dataset.map(_rand_augment(config))
    return dataset.prefetch(2)


def _rand_augment(config):
    # Imported here: keras-cv costs half a second and 140 MB, and the option is off by default.
    from keras_cv.layers import RandAugment

    layer = RandAugment(
        value_range=(0, 255), augmentations_per_image=2, magnitude=0.3, seed=config.seed
    )

    def apply(batch):
        return {**batch, "images": tf.cast(layer(batch["images"], training=True), tf.float32)}

    return apply


def ordered_batches(catalogue, image_size, resize, batch_size):
    """Returns a catalogue's images in order, preprocessed as in serving.

    Args:
        catalogue: Catalogue.
        image_size: int, side of the images in pixels.
        resize: "crop", "squash" or "pad", see `fir_tf.input.images.fit`.
        batch_size: int.

    Returns:
        (tf.data.Dataset, int): dicts of `images` float32 [batch_size, image_size, image_size,
        3] in [0, 255] and `valid` bool [batch_size], and the number of batches. The last batch
        is filled with zeros that are not valid, so that the shape is always the same.
    """
    count = len(catalogue)
    batches = -(-count // batch_size)
    files = np.array(catalogue.files() + [""] * (batches * batch_size - count), dtype=object)

    def load(path):
        images, valid = read_and_preprocess(path, image_size, resize)
        return {"images": images, "valid": valid}

    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(files, tf.string))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(2), batches
