"""tf.data pipelines: training batches by (seed, step), and whole catalogues in order."""

from collections.abc import Sequence

import tensorflow as tf

from fir_tf.config import Config
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.input.augment import DRAWS, training_view
from fir_tf.input.plans import Plan

# Images that one call decodes, one after the other; cores share the calls.
_ROWS_PER_CALL = 32


def training_batches(
    catalogue: Catalogue,
    plan: Plan,
    config: Config,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
) -> tf.data.Dataset:
    """Returns the endless stream of training batches from `start_step` on.

    Batch number `step` is a pure function of (catalogue, config, step): reached from step 0 or
    by resuming, whole or in shares, an image has the same pixels. (With `rand_augment` the
    images keep their rows and crops, but keras-cv draws the augmentation from generators of its
    own, which no step number reaches.)

    Several readers share each global batch: reader `index` of `count` gets its `index`-th part,
    consecutive rows of the plan, so the parts in the order of the readers are the plan's batch.
    A reader that feeds several replicas asks for its share in smaller batches, one a replica,
    which is what `tf.distribute.Strategy.distribute_datasets_from_function` expects.

    Args:
        catalogue: Catalogue that the plan's rows refer to.
        plan: see `fir_tf.input.plans.make_plan`.
        config: Config; the input flags.
        start_step: int, the first step.
        shard: (index, count), this reader and how many share the batches.
        batch_size: int, rows in a batch of the stream; None for the whole share of a step. It
            must divide the share; the stream then has several batches a step, in order.

    Returns:
        tf.data.Dataset of dicts: `images` float32 [n, image_size, image_size, 3] in [0, 255],
        `category` int32 [n], `item` int32 [n], `row` int32 [n] (row of the catalogue), `valid`
        bool [n]. n is `batch_size`. An image that cannot be read is zeros, with both labels -1
        and valid False: it takes no part in any loss.

    Raises:
        FirError: if the batch cannot be shared as asked.
    """
    first, share = _share(plan.size, shard)
    batch_size = share if batch_size is None else batch_size
    if batch_size < 1 or share % batch_size:
        raise FirError(
            f"`batch_size` must divide the reader's share of {share} of {plan.size} images. "
            f"Received: {batch_size}"
        )
    files = tf.constant(catalogue.files())
    category, item = tf.constant(catalogue.category), tf.constant(catalogue.item)
    # Another stream than the plan's own, so that crops and choice of images are independent.
    base = tf.constant([config.seed, 2], tf.int32)
    shape = (config.image_size, config.image_size, 3)
    rows_per_call = _rows_per_call(batch_size)

    def calls(step):
        # Drawn for the whole batch: a share has the numbers of its places in it.
        draws = tf.random.stateless_uniform([plan.size, DRAWS], tf.random.fold_in(base, step))
        chosen = (plan(step)[first : first + share], draws[first : first + share])
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.reshape(part, [-1, rows_per_call, *part.shape[1:]]) for part in chosen)
        )

    def load(rows, draws):
        images, valid = guarded_rows(
            lambda path, draws: training_view(tf.io.read_file(path), draws, config),
            (tf.gather(files, rows), draws),
            shape,
        )
        return {
            "images": images,
            "category": tf.where(valid, tf.gather(category, rows), -1),
            "item": tf.where(valid, tf.gather(item, rows), -1),
            "row": rows,
            "valid": valid,
        }

    dataset = tf.data.Dataset.counter(start=start_step).flat_map(calls)
    dataset = _loaded(dataset, load, batch_size, rows_per_call)
    if config.rand_augment:
        dataset = dataset.map(_rand_augment(config))
    return dataset.prefetch(2)


def _share(size, shard):
    index, count = shard
    if not 0 <= index < count or size % count:
        raise FirError(
            f"`shard` must be (index, count) with index below count and a count that divides "
            f"the batch of {size} images. Received: ({index}, {count})"
        )
    return index * (size // count), size // count


def _rows_per_call(batch_size):
    """Returns the largest number of rows that divides a batch and suits a call."""
    return max(n for n in range(1, min(batch_size, _ROWS_PER_CALL) + 1) if batch_size % n == 0)


def _loaded(dataset, load, batch_size, rows_per_call):
    """Maps groups of rows to batches: `load` on all cores, then as many groups as a batch has."""
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    calls = batch_size // rows_per_call
    if calls == 1:
        return dataset

    def join(groups):
        return {
            name: tf.reshape(value, [batch_size, *value.shape[2:]])
            for name, value in groups.items()
        }

    return dataset.batch(calls, drop_remainder=True).map(join)


def _rand_augment(config):
    # Imported here: keras-cv costs half a second and 140 MB, and the option is off by default.
    from keras_cv.layers import RandAugment

    layer = RandAugment(
        value_range=(0, 255), augmentations_per_image=2, magnitude=0.3, seed=config.seed
    )

    def apply(batch):
        images = tf.cast(layer(batch["images"], training=True), tf.float32)
        # Its arithmetic leaves the range by a rounding now and then.
        return {**batch, "images": tf.clip_by_value(images, 0.0, 255.0)}

    return apply


def ordered_batches(
    files: Sequence[str], image_size: int, resize: str, batch_size: int
) -> tuple[tf.data.Dataset, int]:
    """Returns images in order, preprocessed as in serving.

    Args:
        files: their paths. One that is missing or cannot be decoded is not valid.
        image_size: int, side of the images in pixels.
        resize: "crop", "squash" or "pad", see `fir_tf.images.decode.fit`.
        batch_size: int.

    Returns:
        (tf.data.Dataset, int): dicts of `images` float32 [batch_size, image_size, image_size,
        3] in [0, 255] and `valid` bool [batch_size], and the number of batches. The last batch
        is filled with zeros that are not valid, so that the shape is always the same.
    """
    batches = -(-len(files) // batch_size)
    padded = [*files, *[""] * (batches * batch_size - len(files))]
    rows_per_call = _rows_per_call(batch_size)

    def load(paths):
        images, valid = guarded_rows(
            lambda path: decode_and_fit(tf.io.read_file(path), image_size, resize),
            paths,
            (image_size, image_size, 3),
        )
        return {"images": images, "valid": valid}

    dataset = tf.data.Dataset.from_tensor_slices(
        tf.reshape(tf.constant(padded, tf.string), [-1, rows_per_call])
    )
    # tf.data's autotuner sleeps for longer the longer a pass takes, and the end of the pass waits
    # for it now and then: 7 s after 15. Without it, all cores decode from the start.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = _loaded(dataset, load, batch_size, rows_per_call).prefetch(2)
    return dataset.with_options(options), batches
