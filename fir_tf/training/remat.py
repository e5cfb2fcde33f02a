"""Activations that the backward pass computes again instead of keeping them.

Chen, Xu, Zhang, Guestrin, *Training Deep Nets with Sublinear Memory Cost* (2016): the backbone is
cut into segments, of which only the inputs are kept; a segment's inside is there again when its
gradient is due.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from fir_tf.keras_versions import calls_of, seed_variables
from fir_tf.models.batch_norm import statistics_kept
from fir_tf.models.fir import for_any_size
from fir_tf.training.frozen import backbone_of


def with_remat(network: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Returns the forward pass of `network` in training, whose backbone keeps less for gradients.

    Outputs, gradients and moving statistics are those of `network(images, training=True)`, up to
    rounding, also where layers draw random numbers by Keras' means. The last segment is not
    computed again, since its gradient is due at once.

    Args:
        network: keras.Model, functional, with the backbone as a nested model: a functional one
            too, of one input and one output.

    Returns:
        callable from a batch of images to the outputs of `network`, by the same layers; what is
        set in them counts when it is traced.

    Raises:
        FirError: there is no backbone.
    """
    body = backbone_of(network, "remat")
    entry, features = next(call[1:] for call in calls_of(network) if call[0] is body)
    before = for_any_size(keras.Model(network.inputs, entry))
    after = for_any_size(keras.Model(features, network.output))
    *first, last = segments(body)

    def forward(images: tf.Tensor) -> Any:
        (values,) = tf.nest.flatten(before(images, training=True))
        for segment in first:
            values = _computed_again(segment, values)
        return after(last(values, training=True), training=True)

    return forward


def _computed_again(segment: keras.Model, values: tf.Tensor) -> tf.Tensor:
    """Calls a segment that is called a second time when its gradient is due."""
    drawn_from = seed_variables(segment)
    seeds = [tf.identity(variable) for variable in drawn_from]
    again = False

    def call(inputs: tf.Tensor) -> tf.Tensor:
        nonlocal again
        if not again:
            again = True
            return segment(inputs, training=True)
        # What the first pass has left behind stays: statistics, and the seeds of later draws.
        later = [tf.identity(variable) for variable in drawn_from]
        _assign(drawn_from, seeds)
        with statistics_kept():
            outputs = segment(inputs, training=True)
        _assign(drawn_from, later)
        return outputs

    return tf.recompute_grad(call)(values)


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def segments(body: keras.Model) -> list[keras.Model]:
    """Cuts a network where a single tensor leads on.

    While the gradient of a segment is computed, memory holds the inputs of all segments up to it
    and what its own layers put out. Of the cuts that need no more than 1.25 times the least of
    that, these leave the longest last segment, which need not be computed again.

    Args:
        body: keras.Model, functional, of one input and one output.

    Returns:
        list of keras.Model on the layers of `body`; the output of each is the input of the next.
    """
    links = list(_links(body))
    total = sum(link.inner for link in links)
    limits = (total * percent // 100 for percent in range(1, 101))
    least = next(limit for limit in limits if _cuts(links, limit) is not None)
    cuts = _cuts(links, least * 5 // 4) or ()
    ends = [links[cut - 1].output for cut in (*cuts, len(links))]
    starts = [body.inputs[0], *ends[:-1]]
    return [for_any_size(keras.Model(*pair)) for pair in zip(starts, ends, strict=True)]


class _Link(NamedTuple):
    """Layers between two tensors, each of them all that what follows it reads."""

    inner: int  # Numbers that the layers put out for an image.
    output: Any
    kept: int  # Those of `output`.


def _links(body: keras.Model) -> Iterator[_Link]:
    calls = [call[1:] for call in calls_of(body)]
    last_read = {id(tensor): place for place, (read, _) in enumerate(calls) for tensor in read}
    last_read[id(body.outputs[0])] = len(calls)
    inner, live = 0, {id(body.inputs[0])}
    for place, (_, written) in enumerate(calls):
        inner += sum(_numbers(tensor) for tensor in written)
        live |= {id(tensor) for tensor in written}
        live = {tensor for tensor in live if last_read.get(tensor, -1) > place}
        if live == {id(written[0])}:
            yield _Link(inner, written[0], _numbers(written[0]))
            inner = 0


def _numbers(tensor: Any) -> int:
    return math.prod(side or 1 for side in tensor.shape[1:])


def _cuts(links: Sequence[_Link], limit: int) -> tuple[int, ...] | None:
    """The links before which to cut within a limit, the last segment as long as can be."""
    sums = [0, *itertools.accumulate(link.inner for link in links)]
    # For a cut, the least that can be kept up to it, and the cuts that do.
    ways: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for start in range(len(links)):
        if start not in ways:
            continue
        kept, cuts = ways[start]
        if kept + sums[-1] - sums[start] <= limit:
            return cuts
        for end in range(start + 1, len(links)):
            if kept + sums[end] - sums[start] <= limit:
                way = kept + links[end - 1].kept, (*cuts, end)
                ways[end] = min(way, ways.get(end, way))
    return None
