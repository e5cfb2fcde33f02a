"""Training batches by (seed, step), and whole catalogues in order."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from fir_tf.config import InputSettings
from fir_tf.datasets.catalogue import Catalogue
from fir_tf.errors import FirError
from fir_tf.images.box import Crop
from fir_tf.images.decode import decode_and_fit, guarded_rows
from fir_tf.images.window import Boxes
from fir_tf.input.augment import DRAWS, training_view
from fir_tf.parallel import ahead
from fir_tf.samplers.sampler import Sampler

Batch = dict[str, tf.Tensor]

# Images that one call decodes, one after the other; cores share the calls.
_ROWS_PER_CALL = 32


def training_batches(
    catalogue: Catalogue,
    sampler: Sampler,
    settings: InputSettings,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    batch_size: int | None = None,
) -> tf.data.Dataset:
    """Returns the endless stream of training batches from `start_step` on.

    Batch number `step` is a pure function of (catalogue, sampler, settings, step): reached from
    step 0 or by resuming, whole or in shares, an image has the same pixels. (With `rand_augment`
    the images keep their rows and crops, but keras-cv draws the augmentation from generators of
    its own, which no step number reaches.)

    Several readers share each global batch: reader `index` of `count` gets its `index`-th part,
    consecutive rows of it, so the parts in the order of the readers are the sampler's batch. A
    reader that feeds several replicas asks for its share in smaller batches, one a replica, which
    is what `tf.distribute.Strategy.distribute_datasets_from_function` expects.

    Args:
        catalogue: Catalogue that the sampler's rows refer to.
        sampler: see `fir_tf.samplers.choose.make_sampler`.
        settings: InputSettings; with `crop` box, images that have one are cropped to it.
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
    first, share = _share(sampler.size, shard)
    batch_size = share if batch_size is None else batch_size
    if batch_size < 1 or share % batch_size:
        raise FirError(
            f"`batch_size` must divide the reader's share of {share} of {sampler.size} images. "
            f"Received: {batch_size}"
        )
    rows_per_call = _rows_per_call(batch_size)
    # Another stream than the sampler's own, so that crops and choice of images are independent.
    base = tf.constant([settings.seed, 2], tf.int32)

    @tf.autograph.experimental.do_not_convert
    def calls(step: tf.Tensor) -> tf.data.Dataset:
        # Drawn for the whole batch: a share has the numbers of its places in it.
        draws = tf.random.stateless_uniform([sampler.size, DRAWS], tf.random.fold_in(base, step))
        chosen = (sampler(step)[first : first + share], draws[first : first + share])
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.reshape(part, [-1, rows_per_call, *part.shape[1:]]) for part in chosen)
        )

    dataset = tf.data.Dataset.counter(start=start_step).flat_map(calls)
    load = _training_loader(catalogue, settings)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    groups = batch_size // rows_per_call
    if groups > 1:
        dataset = dataset.batch(groups, drop_remainder=True).map(_joined)
    if settings.rand_augment:
        dataset = dataset.map(_rand_augment(settings))
    return dataset.prefetch(2)


def _training_loader(
    catalogue: Catalogue, settings: InputSettings
) -> Callable[[tf.Tensor, tf.Tensor], Batch]:
    """Returns the function from rows, int32 [n], and draws, float32 [n, DRAWS], to a batch."""
    files = tf.constant(catalogue.files())
    category, item = tf.constant(catalogue.category), tf.constant(catalogue.item)
    boxes = [tf.constant(column) for column in catalogue.boxes(settings.crop) or ()]

    def view(path: tf.Tensor, draws: tf.Tensor, *box: tf.Tensor) -> tf.Tensor:
        crops = [Crop(box[0], box[1], settings.crop_margin)] if box else []
        return training_view(tf.io.read_file(path), draws, settings, *crops)

    @tf.autograph.experimental.do_not_convert
    def load(rows: tf.Tensor, draws: tf.Tensor) -> Batch:
        images, valid = guarded_rows(
            view,
            (tf.gather(files, rows), draws, *(tf.gather(column, rows) for column in boxes)),
            (settings.image_size, settings.image_size, 3),
        )
        return {
            "images": images,
            "category": tf.where(valid, tf.gather(category, rows), -1),
            "item": tf.where(valid, tf.gather(item, rows), -1),
            "row": rows,
            "valid": valid,
        }

    return load


def _share(size: int, shard: tuple[int, int]) -> tuple[int, int]:
    index, count = shard
    if not 0 <= index < count or size % count:
        raise FirError(
            f"`shard` must be (index, count) with index below count and a count that divides "
            f"the batch of {size} images. Received: ({index}, {count})"
        )
    return index * (size // count), size // count


def _rows_per_call(batch_size: int) -> int:
    """Returns the largest number of rows that divides a batch and suits a call."""
    return max(n for n in range(1, min(batch_size, _ROWS_PER_CALL) + 1) if batch_size % n == 0)


@tf.autograph.experimental.do_not_convert
def _joined(groups: Batch) -> Batch:
    """Joins groups of rows, tensors [groups, rows, ...], to a batch."""
    return {
        name: tf.reshape(value, [value.shape[0] * value.shape[1], *value.shape[2:]])
        for name, value in groups.items()
    }


def _rand_augment(settings: InputSettings) -> Callable[[Batch], Batch]:
    # Imported here: keras-cv costs half a second and 140 MB, and the option is off by default.
    from keras_cv.layers import RandAugment

    layer = RandAugment(
        value_range=(0, 255), augmentations_per_image=2, magnitude=0.3, seed=settings.seed
    )

    def apply(batch: Batch) -> Batch:
        images = tf.cast(layer(batch["images"], training=True), tf.float32)
        # Its arithmetic leaves the range by a rounding now and then.
        return {**batch, "images": tf.clip_by_value(images, 0.0, 255.0)}

    return apply


def ordered_batches(
    files: Sequence[str],
    image_size: int,
    resize: str,
    batch_size: int,
    boxes: Boxes | None = None,
    margin: float = 0.0,
) -> tuple[Iterator[Batch], int]:
    """Returns images in order, preprocessed as in serving.

    Args:
        files: their paths. One that is missing or cannot be decoded is not valid.
        image_size: int, side of the images in pixels.
        resize: "crop", "squash" or "pad", see `fir_tf.images.decode.fit`.
        batch_size: int.
        boxes: Boxes that they are cropped to, None for whole images. An image without an area in
            its box is not valid.
        margin: float, see `fir_tf.images.box.Crop`.

    Returns:
        (iterator, int): dicts of `images` float32 [batch_size, image_size, image_size, 3] in
        [0, 255] and `valid` bool [batch_size], and the number of batches. The last batch is
        filled with zeros that are not valid, so that the shape is always the same. The cores
        decode ahead of the reader.
    """
    batches = -(-len(files) // batch_size)
    lacking = batches * batch_size - len(files)
    columns: list[Sequence[str] | np.ndarray] = [[*files, *[""] * lacking]]
    if boxes:
        columns += [np.pad(boxes[0], [(0, lacking), (0, 0)]), np.pad(boxes[1], (0, lacking))]
    rows = _rows_per_call(batch_size)
    load = _loader(image_size, resize, rows, margin if boxes else None)
    starts = range(0, batches * batch_size, rows)
    calls = ahead(
        lambda start: load(*(tf.constant(column[start : start + rows]) for column in columns)),
        starts,
    )

    def joined() -> Iterator[Batch]:
        for _ in range(batches):
            groups = [next(calls) for _ in range(batch_size // rows)]
            yield {
                name: tf.concat([group[name] for group in groups], axis=0)
                for name in ("images", "valid")
            }

    return joined(), batches


@functools.cache
def _loader(image_size: int, resize: str, rows: int, margin: float | None) -> Callable[..., Batch]:
    """Returns the function from paths, string [rows], to `images` and `valid`.

    With a margin it takes Boxes too.

    A tf.data pipeline would be built anew for each pass over some files, which takes more than
    two seconds of a processor; a function is built once.
    """

    signature = [tf.TensorSpec([rows], tf.string)]
    if margin is not None:
        signature += [tf.TensorSpec([rows, 4], tf.float32), tf.TensorSpec([rows], tf.bool)]

    def fitted(path: tf.Tensor, *box: tf.Tensor) -> tf.Tensor:
        crop = Crop(box[0], box[1], margin or 0.0) if box else None
        return decode_and_fit(tf.io.read_file(path), image_size, resize, crop)

    @tf.function(input_signature=signature, autograph=False)
    def load(*columns: tf.Tensor) -> Batch:
        images, valid = guarded_rows(fitted, columns, (image_size, image_size, 3))
        return {"images": images, "valid": valid}

    return load
