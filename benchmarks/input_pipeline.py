"""Times the input of fir_tf beside PyTorch's DataLoader: JPEG files to training batches.

  python benchmarks/input_pipeline.py --torch_python=<python with torch, opencv, pillow>
  python benchmarks/input_pipeline.py --images=<folder of photos> ...

2,000 JPEGs of 400 x 533 pixels are read, decoded, cropped by torchvision's law, resized to 224,
mirrored, normalised to float32 and batched by 32, with labels: the same task for all sides, in one
run, one side after the other. Then: what decoding large JPEGs at reduced size brings, in training
and in evaluation, and what it changes. Prints tables and writes benchmarks/results/input.json.

The torch sides run in the Python of --torch_python, or in this one if it has torch.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from input_sides import (
    AREA_MIN,
    BATCH,
    IMAGE_SIZE,
    MEAN,
    PHOTOS,
    STD,
    Loader,
    serve_batches,
)
from sides import compare

from fir_tf.files import write_json

HERE = Path(__file__).parent
WIDTH, HEIGHT = 400, 533
# Width, height and how many.
LARGE = [(400, 533, 40), (1000, 1333, 20), (3000, 4000, 8)]


def make_photos(folder, source, count):
    """Writes `count` JPEGs of 400 x 533, from photos or from noise with photos' detail.

    Args:
        folder: Path.
        source: str, folder of photos, searched with its subfolders; "" for noise.
        count: int.
    """
    import numpy as np
    from PIL import Image
    from tqdm import tqdm

    files = sorted(Path(source).rglob("*.jpg")) if source else []
    if source and not files:
        sys.exit(f"error: --images must hold .jpg files. Received: {source}")
    rng = np.random.default_rng(0)
    rng.shuffle(files)
    noise = [] if files else [detailed(rng) for _ in range(20)]
    for number in tqdm(range(count), desc="photos", unit="photo", disable=None):
        if files:
            with Image.open(files[number % len(files)]) as photo:
                picture = photo.convert("RGB").resize((WIDTH, HEIGHT), Image.LANCZOS)
        else:
            shift = rng.integers(0, WIDTH, 2)
            picture = Image.fromarray(np.roll(noise[number % len(noise)], shift, (0, 1)))
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def detailed(rng):
    """Returns uint8 [533, 400, 3]: noise whose amplitude falls with frequency as photos' does."""
    import numpy as np

    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)[None]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / HEIGHT) ** 1.7
    spectra = np.fft.fft2(rng.standard_normal((3, HEIGHT, WIDTH))) * amplitude
    pixels = np.moveaxis(np.fft.ifft2(spectra).real, 0, -1)
    # Most of a photo's detail is common to the channels.
    pixels = 0.8 * pixels.mean(-1, keepdims=True) + 0.2 * pixels
    return np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)


def make_mosaics(folder, photos, width, height, count):
    """Writes large JPEGs, tiled with the photos so that they have a photo's detail by the pixel."""
    from PIL import Image

    files = sorted(photos.glob("*.jpg"))
    used = 0
    for number in range(count):
        mosaic = Image.new("RGB", (width, height))
        for top in range(0, height, HEIGHT):
            for left in range(0, width, WIDTH):
                with Image.open(files[used % len(files)]) as tile:
                    mosaic.paste(tile, (left, top))
                used += 1
        mosaic.save(folder / f"{number:05d}.jpg", quality=90)


class Photos:
    """The columns of a Catalogue that training batches read."""

    def __init__(self, folder):
        import numpy as np

        self._files = sorted(str(path) for path in Path(folder).glob("*.jpg"))
        count = len(self._files)
        self.category = np.arange(count, dtype=np.int32) % 10
        self.item = np.arange(count, dtype=np.int32) // 4

    def files(self):
        """Returns the paths."""
        return self._files

    def __len__(self):
        return len(self._files)


def own_side(args):
    """Serves fir_tf's training batches."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import numpy as np
    import tensorflow as tf

    from fir_tf.config import Config
    from fir_tf.input import augment
    from fir_tf.input.batches import training_batches
    from fir_tf.samplers.uniform import UniformSampler

    photos = Photos(args.images)
    config = Config(losses="OC", image_size=IMAGE_SIZE, crop_area_min=AREA_MIN, grayscale=0.0)
    sampler = UniformSampler(np.arange(len(photos)), BATCH, config.seed)
    batches = training_batches(photos, sampler, config)
    scale = 1 / (255 * np.array(STD, np.float32))
    offset = np.array(MEAN, np.float32) / np.array(STD, np.float32)
    batches = batches.map(lambda batch: {**batch, "images": batch["images"] * scale - offset})
    batches = iter(batches.prefetch(2))

    def step():
        batch = next(batches)
        assert batch["images"].dtype == tf.float32 and bool(tf.reduce_all(batch["valid"][:1]))

    @tf.function
    def mean_area():
        draws = tf.random.stateless_uniform([4000, augment.DRAWS], [0, 0])
        boxes = tf.map_fn(
            lambda row: augment.window(HEIGHT, WIDTH, row, AREA_MIN),
            draws,
            fn_output_signature=tf.int32,
        )
        return tf.reduce_mean(tf.cast(boxes[:, 2] * boxes[:, 3], tf.float32)) / (HEIGHT * WIDTH)

    area = float(mean_area())
    serve_batches(step, [], lambda: area)


def peers(photos, args):
    """Compares fir_tf with the torch loaders; returns the table's rows."""
    own = [sys.executable, str(HERE / "input_pipeline.py"), f"--images={photos}", "--own"]
    sides = [Loader("fir_tf", own)]
    if args.torch_python:
        script = [args.torch_python, str(HERE / "torch_input.py"), f"--images={photos}"]
        sides += [
            Loader("torch, OpenCV", [*script, "--decoder=opencv"]),
            Loader("torch, Pillow", [*script, "--decoder=pillow"]),
        ]
    found = compare(sides, BATCH, args.rounds, args.steps)
    rows = {}
    for side in sides:
        if side.name not in found:
            print(f"{side.name}: left out, its process did not start (see above)")
            continue
        turns = side.turns[1:]
        rows[side.name] = {
            "images_per_second": side.median(),
            "lowest": min(side.rates),
            "highest": max(side.rates),
            "cpu_ms_per_image": median(turn["cpu_ms"] for turn in turns),
            "mean_crop_area": turns[-1]["area"],
            "largest_gap_ms": 1000 * max(turn["gap"] for turn in turns),
            "median_gap_ms": 1000 * median(turn["median_gap"] for turn in turns),
            "epoch_gap_ms": 1000 * median(turn["epoch_gap"] for turn in turns),
        }
    areas = [row["mean_crop_area"] for row in rows.values()]
    if max(areas) - min(areas) > 0.02:
        sys.exit(f"error: the sides must crop alike. Received mean areas: {areas}")
    return rows


def reduced(folder, rounds):
    """Compares decoding at reduced size with decoding in full, one photo at a time.

    Args:
        folder: Path, large photos.
        rounds: int, how often each photo is decoded each way.

    Returns:
        {"train" or "evaluate": dict}: median ms of CPU an image both ways; for evaluation also
        the PSNR in dB of reduced against full: median and least.
    """
    import numpy as np
    import tensorflow as tf

    from fir_tf.config import Config
    from fir_tf.images import decode
    from fir_tf.input import augment

    config = Config(image_size=IMAGE_SIZE, crop_area_min=AREA_MIN, grayscale=0.0)
    photos = [tf.io.read_file(str(path)) for path in sorted(folder.glob("*.jpg"))]
    draws = tf.random.stateless_uniform([len(photos), augment.DRAWS], [0, 0])
    views = {
        "train": lambda photo, draws: augment.training_view(photo, draws, config),
        "evaluate": lambda photo, _: decode.decode_and_fit(photo, IMAGE_SIZE, "crop"),
    }

    def compiled(view):
        return tf.function(view).get_concrete_function(photos[0], draws[0])

    halvings = decode.halvings
    rows = {}
    for name, view in views.items():
        ways = {"reduced": compiled(view)}
        augment.halvings = decode.halvings = lambda *_: tf.constant(0)
        ways["full"] = compiled(view)
        augment.halvings = decode.halvings = halvings
        times, found = {way: [] for way in ways}, []
        for photo, numbers in zip(photos, draws, strict=True):
            pixels = {way: run(photo, numbers) for way, run in ways.items()}
            error = np.mean(np.square(pixels["reduced"] - pixels["full"]))
            found.append(float(10 * np.log10(255**2 / error)) if error else np.inf)
            for _ in range(rounds):
                for way, run in ways.items():
                    before = time.process_time()
                    run(photo, numbers)
                    times[way].append(1000 * (time.process_time() - before))
        rows[name] = {f"cpu_ms_{way}": median(values) for way, values in times.items()}
        if name == "evaluate" and min(found) < np.inf:
            rows[name] |= {"psnr_median": median(found), "psnr_least": min(found)}
    return rows


def print_peers(rows):
    """Prints rates, and ours over each."""
    rate = rows["fir_tf"]["images_per_second"]
    for name, row in rows.items():
        print(
            f"{name:16s} {row['images_per_second']:6.0f} images/s ({row['lowest']:.0f} to "
            f"{row['highest']:.0f}), fir_tf {rate / row['images_per_second']:.2f}x; "
            f"{row['cpu_ms_per_image']:.2f} ms of CPU an image; mean crop area "
            f"{row['mean_crop_area']:.3f}; a batch {row['median_gap_ms']:.0f} ms, the one where "
            f"an epoch ends {row['epoch_gap_ms']:.0f}, at most {row['largest_gap_ms']:.0f}",
            flush=True,
        )


def print_reduced(size, rows):
    """Prints what reduced decoding brings."""
    for name, row in rows.items():
        quality = ""
        if "psnr_least" in row:
            quality = f"; PSNR {row['psnr_median']:.1f} dB, at least {row['psnr_least']:.1f}"
        print(
            f"{size} px, {name:8s} {row['cpu_ms_reduced']:6.1f} ms of CPU an image reduced, "
            f"{row['cpu_ms_full']:.1f} in full: {row['cpu_ms_full'] / row['cpu_ms_reduced']:.1f}x"
            f"{quality}",
            flush=True,
        )


def main():
    """Runs the comparison, or serves as one of its sides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="", help="folder of photos; none: rendered noise")
    parser.add_argument("--torch_python", default="", help="a Python with torch (default: this)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (%(default)s)")
    parser.add_argument(
        "--steps", type=int, default=80, help="batches a turn; an epoch has 62 (%(default)s)"
    )
    parser.add_argument("--only", choices=("peers", "reduced"), help="one of the two parts")
    parser.add_argument("--own", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.own:
        own_side(args)
        return
    if not args.torch_python and importlib.util.find_spec("torch"):
        args.torch_python = sys.executable
    if args.steps < -(-PHOTOS // BATCH):
        sys.exit(f"error: --steps must be at least an epoch, 63. Received: {args.steps}")
    path = HERE / "results" / "input.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    # The numbers hold for how busy the machine was.
    results["load_before"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        make_photos(photos, args.images, PHOTOS)
        if args.only != "reduced":
            results["peers"] = peers(photos, args)
            print_peers(results["peers"])
        if args.only != "peers":
            results["reduced"] = {}
            for width, height, count in LARGE:
                large = Path(folder) / str(width)
                large.mkdir()
                make_mosaics(large, photos, width, height, count)
                results["reduced"][width] = reduced(large, args.rounds)
                print_reduced(width, results["reduced"][width])
    results["load_after"] = os.getloadavg()
    print("load before {load_before[0]:.1f}, after {load_after[0]:.1f}".format(**results))
    write_json(path, results)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
