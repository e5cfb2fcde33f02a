"""The PyTorch side of recipes.py: timm's backbone and the losses of two metric-learning libraries.

A peer's recipe is the library's loss with the values it has by itself, on the items alone: its
users give it one label. The embedding is the network's pooled features.
"""

import argparse
import collections
import itertools
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Without its compiled operators, as PyPI's CPU builds of torch find it: it needs to see that
    # these exist.
    _SCHEMAS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _SCHEMAS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm
from PIL import Image, ImageOps
from torch import nn
from torchvision import transforms

from recipes import planned_steps, record, timed

# Evaluation takes the centre that 8/7 of the image size leaves of the short side.
CROP_FRACTION = 7 / 8
# The rate that pytorch-metric-learning's documentation gives the optimiser of a loss's own weights
# ("How to use losses with weights").
LOSS_RATE = 0.01
WARM_UP = 0.1


def metric_learning(name, classes, width):
    """Returns (loss, miner or None) of pytorch-metric-learning."""
    from pytorch_metric_learning import distances, losses, miners, reducers

    if name == "triplet_semihard":
        # That of the README and the examples; triplet_all is what the classes have by themselves.
        distance = distances.CosineSimilarity()
        settings = {"margin": 0.2, "distance": distance}
        loss = losses.TripletMarginLoss(reducer=reducers.ThresholdReducer(low=0), **settings)
        return loss, miners.TripletMarginMiner(type_of_triplets="semihard", **settings)
    made = {
        "triplet_all": lambda: (losses.TripletMarginLoss(), None),
        "supcon": lambda: (losses.SupConLoss(), None),
        "multi_similarity": lambda: (losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()),
        "arcface": lambda: (losses.ArcFaceLoss(classes, width), None),
        "proxy_anchor": lambda: (losses.ProxyAnchorLoss(classes, width), None),
    }
    return made[name]()


def open_metric_learning(name):
    """Returns the loss of open-metric-learning with its miner, on vectors of unit length."""
    from oml.losses.triplet import TripletLossWithMiner
    from oml.miners.inbatch_all_tri import AllTripletsMiner
    from oml.miners.inbatch_hard_tri import HardTripletsMiner

    # The README's example, and the miner of its own models of In-Shop.
    miner = {"oml_all": AllTripletsMiner, "oml_hard": HardTripletsMiner}[name]()
    loss = TripletLossWithMiner(margin=0.1, miner=miner)
    return lambda vectors, labels: loss(nn.functional.normalize(vectors), labels)


def build_network(task):
    """Returns timm's network with the task's weights: normalised images -> pooled features."""
    network = timm.create_model(f"tf_{task['backbone']}")
    values = torch.load(task["weights"], weights_only=True).values()
    # The package lists the same tensors under other names.
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    network.reset_classifier(0)
    blocks = network.blocks
    stages = (
        (network.conv_stem, network.bn1, blocks[0]),
        blocks[1:2],
        blocks[2:3],
        blocks[3:5],
        (*blocks[5:], network.conv_head, network.bn2),
    )
    for module in itertools.chain(*stages[: task["freeze"]]):
        module.requires_grad_(False)
    # In evaluation: the statistics of batch norm stay, as on our side. Nothing else of it differs.
    return network.to(memory_format=torch.channels_last).eval()


def opened(path):
    """Returns an upright RGB photo; what is transparent is seen on white."""
    with Image.open(path) as photo:
        photo = ImageOps.exif_transpose(photo)
        if photo.has_transparency_data:
            photo = photo.convert("RGBA")
            photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
        return photo.convert("RGB")


def fitted(photo, side, resize):
    """Returns a photo fitted to side x side pixels as `fir_tf.images.decode.fit` does."""
    width, height = photo.size
    if resize == "pad":
        return ImageOps.pad(photo, (side, side), Image.Resampling.BILINEAR, "white")
    box = (0, 0, width, height)
    if resize == "crop":
        cut = CROP_FRACTION * min(width, height)
        left, top = (width - cut) / 2, (height - cut) / 2
        box = (left, top, left + cut, top + cut)
    return photo.resize((side, side), Image.Resampling.BILINEAR, box=box)


class Input:
    """Batches of normalised images, read ahead by threads.

    Args:
        task: dict, see `recipes.make_task`.
    """

    def __init__(self, task):
        self._task, self._pool = task, ThreadPoolExecutor(os.cpu_count())
        self._mean, self._std = (
            torch.tensor(task[name]).reshape(1, 3, 1, 1) for name in ("mean", "std")
        )

    def training(self):
        """Yields (images, labels) of P x K batches without end; labels count from 0."""
        task, files = self._task, self._task["train"]["files"]
        labels = np.unique(task["train"]["item"], return_inverse=True)[1]
        view = transforms.Compose(
            [
                transforms.RandomResizedCrop(task["image_size"], scale=(task["area_min"], 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomGrayscale(task["grayscale"]),
            ]
        )
        rows, same = itertools.tee(row_batches(task, labels))
        images = self._images(([files[row] for row in batch] for batch in rows), view)
        for batch, pixels in zip(same, images, strict=True):
            yield pixels, torch.from_numpy(labels[batch])

    def test(self, size=64):
        """Yields the images of the test photos in order."""
        task = self._task
        groups = (task["test"][n : n + size] for n in range(0, len(task["test"]), size))
        return self._images(groups, lambda photo: fitted(photo, task["image_size"], task["resize"]))

    def _images(self, groups, view):
        """Yields float32 [n, 3, side, side] of each group of paths, two groups ahead."""
        running = collections.deque()
        for paths in groups:
            running.append([self._pool.submit(lambda p: view(opened(p)), path) for path in paths])
            if len(running) > 2:
                yield self._normalised(running.popleft())
        while running:
            yield self._normalised(running.popleft())

    def _normalised(self, photos):
        images = torch.from_numpy(np.stack([np.array(photo.result()) for photo in photos]))
        # Channels last in memory, as they come.
        return (images.permute(0, 3, 1, 2).float() - self._mean) / self._std


def row_batches(task, labels):
    """Yields lists of rows, P x K each, by the sampler of the peer's library, without end."""
    images, size = task["images"], task["groups"] * task["images"]
    if task["peer"].startswith("oml"):
        from oml.samplers.balance import BalanceSampler

        sampler = BalanceSampler(labels, n_labels=task["groups"], n_instances=images)
        while True:
            yield from (list(batch) for batch in sampler)
    from pytorch_metric_learning.samplers import MPerClassSampler

    length = max(len(labels), size)
    sampler = MPerClassSampler(labels, images, batch_size=size, length_before_new_iter=length)
    while True:
        rows = list(sampler)
        yield from (rows[first : first + size] for first in range(0, len(rows), size))


class Peer:
    """A network with a peer's loss, ready to be trained.

    Args:
        task: dict, see `recipes.make_task`, and `peer`, the name of the loss.
        steps: int, those of the run: warm-up, then half a cosine down to 0.
    """

    def __init__(self, task, steps):
        torch.manual_seed(task["seed"])
        # The samplers draw from it.
        np.random.seed(task["seed"])
        self._input, self.network = Input(task), build_network(task)
        self._batches = self._input.training()
        trained = [value for value in self.network.parameters() if value.requires_grad]
        optimizers = [torch.optim.Adam(trained, task["learning_rate"], fused=True)]
        self._miner = None
        if task["peer"].startswith("oml"):
            self._loss = open_metric_learning(task["peer"])
        else:
            classes, width = len(set(task["train"]["item"])), self.network.num_features
            self._loss, self._miner = metric_learning(task["peer"], classes, width)
            own = list(self._loss.parameters())
            optimizers += [torch.optim.SGD(own, LOSS_RATE)] if own else []
        warm = round(WARM_UP * steps)

        def rate(step):
            share = max(step - warm, 0) / max(steps - warm, 1)
            return min(1, (step + 1) / (warm + 1)) * (1 + math.cos(math.pi * min(share, 1))) / 2

        self._optimizers = optimizers
        self._schedules = [torch.optim.lr_scheduler.LambdaLR(one, rate) for one in optimizers]

    def train(self, count):
        """Makes some steps."""
        for images, labels in itertools.islice(self._batches, count):
            for optimizer in self._optimizers:
                optimizer.zero_grad(set_to_none=True)
            vectors = self.network(images)
            mined = [self._miner(vectors, labels)] if self._miner else []
            self._loss(vectors, labels, *mined).backward()
            for changed in (*self._optimizers, *self._schedules):
                changed.step()

    @torch.inference_mode()
    def embed(self):
        """Returns the test photos' embeddings, float32 [n, d], of unit length."""
        found = [nn.functional.normalize(self.network(images)) for images in self._input.test()]
        return torch.cat(found).numpy()


def main():
    """Trains a peer's recipe, see `recipes.record`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", type=Path, required=True)
    task = json.loads(parser.parse_args().task.read_text())
    steps = planned_steps(task, timed(Peer(task, 1).train))
    peer = Peer(task, steps)
    record(task, steps, lambda first, last: peer.train(last - first), peer.embed)


if __name__ == "__main__":
    main()
