"""The PyTorch side of input_pipeline.py: DataLoader, 2 workers, decoding by OpenCV or Pillow."""

import argparse
import math
import multiprocessing
import random
from pathlib import Path

import numpy as np
import torch
from input_sides import AREA_MIN, BATCH, IMAGE_SIZE, MEAN, STD, serve_batches

AREAS = []


def window(height, width, rng):
    """torchvision's RandomResizedCrop.get_params for a size instead of an image."""
    for _ in range(10):
        area = height * width * rng.uniform(AREA_MIN, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - h) // 2, (width - w) // 2, h, w


class Photos(torch.utils.data.Dataset):
    """Training views with their labels; the view's share of the image's area comes along."""

    def __init__(self, files, decoder):
        self.files = files
        self._view = {"opencv": opencv_view, "pillow": pillow_view}[decoder]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        """Returns (image, category, item, row, share of the area)."""
        image, share = self._view(self.files[row])
        return image, row % 10, row // 4, row, share


def opencv_view(path):
    """Returns (float32 [224, 224, 3], share of the image's area)."""
    import cv2

    cv2.setNumThreads(1)
    pixels = cv2.imread(path)
    height, width = pixels.shape[:2]
    top, left, h, w = window(height, width, random)
    pixels = cv2.resize(pixels[top : top + h, left : left + w], (IMAGE_SIZE, IMAGE_SIZE))
    if random.random() < 0.5:
        pixels = cv2.flip(pixels, 1)
    return normalised(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)), h * w / (height * width)


def pillow_view(path):
    """Returns (float32 [224, 224, 3], share of the image's area); what torchvision does."""
    from PIL import Image

    with Image.open(path) as photo:
        photo = photo.convert("RGB")
    top, left, h, w = window(photo.height, photo.width, random)
    cut = photo.crop((left, top, left + w, top + h))
    cut = cut.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return normalised(np.asarray(cut)), h * w / (photo.width * photo.height)


def normalised(pixels):
    """Returns float32 pixels with ImageNet's mean and deviation taken out."""
    image = pixels.astype(np.float32)
    image *= np.float32(1 / 255) / np.array(STD, np.float32)
    image -= np.array(MEAN, np.float32) / np.array(STD, np.float32)
    return torch.from_numpy(image)


class Endless(torch.utils.data.Sampler):
    """Every row once an epoch in random order, without end: no worker is started twice."""

    def __init__(self, count):
        self._count = count

    def __iter__(self):
        while True:
            yield from torch.randperm(self._count).tolist()


def main():
    """Serves batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True)
    parser.add_argument("--decoder", choices=("opencv", "pillow"), required=True)
    args = parser.parse_args()
    files = sorted(str(path) for path in Path(args.images).glob("*.jpg"))
    loader = torch.utils.data.DataLoader(
        Photos(files, args.decoder),
        BATCH,
        sampler=Endless(len(files)),
        num_workers=2,
        worker_init_fn=lambda number: random.seed(number),
    )
    batches = iter(loader)

    def step():
        image, *_, share = next(batches)
        assert image.dtype == torch.float32 and len(image) == BATCH
        AREAS.append(float(share.mean()))

    workers = [child.pid for child in multiprocessing.active_children()]
    serve_batches(step, workers, lambda: sum(AREAS) / len(AREAS))


if __name__ == "__main__":
    main()
