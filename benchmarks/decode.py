"""Processor time of a JPEG from its bytes to the model's input: this library and other decoders.

  python benchmarks/decode.py --torch_python=<python with torchvision> --simd_python=<Pillow-SIMD>

Rendered photos of 512 x 512 and of 1600 x 1600 pixels become 128 x 128, `--resize=crop`: the short
side to 146, the centre of it, antialiased. Sides take turns in processes of their own, one thread
each; medians of --rounds. Pillow decodes at reduced size as well (`draft`). Prints a table and
writes benchmarks/results/decode.json.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE, SHORT = 128, 146
CALLS = 40


def ours(photos):
    """Returns a callable of a photo's bytes."""
    import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
    import tensorflow as tf

    from fir_tf.images.decode import decode_and_fit

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    graph = tf.function(
        lambda contents: decode_and_fit(contents, SIZE, "crop"),
        input_signature=[tf.TensorSpec([], tf.string)],
    )
    return lambda photo: graph(tf.constant(photo)).numpy()


def pillow(photos):
    """Returns a callable of a photo's bytes."""
    import numpy as np
    from PIL import Image

    def view(photo):
        image = Image.open(io.BytesIO(photo))
        # Twice the size it is resized to, as here.
        image.draft("RGB", (2 * SHORT, 2 * SHORT))
        image = image.convert("RGB").resize((SHORT, SHORT), Image.BILINEAR)
        edge = (SHORT - SIZE) // 2
        return np.asarray(image.crop((edge, edge, edge + SIZE, edge + SIZE)), np.float32)

    return view


def torchvision(photos):
    """Returns a callable of a photo's bytes."""
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)

    def view(photo):
        pixels = decode_jpeg(torch.from_numpy(np.frombuffer(photo, np.uint8)), ImageReadMode.RGB)
        return functional.center_crop(functional.resize(pixels, [SHORT], antialias=True), [SIZE])

    return view


SIDES = {
    "fir_tf": (ours, "main"),
    "Pillow": (pillow, "main"),
    "Pillow-SIMD": (pillow, "simd"),
    "torchvision": (torchvision, "torch"),
}


def milliseconds(side, folder):
    """Returns {size: processor milliseconds a photo} of a side, in this process."""
    found = {}
    for path in sorted(Path(folder).glob("*.jpg")):
        photo = path.read_bytes()
        view = SIDES[side][0](photo)
        for _ in range(5):
            view(photo)
        start = time.process_time()
        for _ in range(CALLS):
            view(photo)
        found[path.stem] = 1000 * (time.process_time() - start) / CALLS
    return found


def write_photos(folder):
    """Writes a photo of each size."""
    from PIL import Image

    from fir_tf import boutique

    boutique.write(folder / "boutique", boutique.Order(items=4, views=2, size=512))
    made = Image.open(next((folder / "boutique").rglob("*.jpg")))
    for side in (512, 1600):
        made.resize((side, side), Image.BICUBIC).save(folder / f"{side}.jpg", quality=90)


def main():
    """Runs the sides in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch_python", default="", help="python with torch and torchvision")
    parser.add_argument("--simd_python", default="", help="python with Pillow-SIMD")
    parser.add_argument("--rounds", type=int, default=7, help="turns (%(default)s)")
    parser.add_argument("--side", default="", choices=["", *SIDES], help=argparse.SUPPRESS)
    parser.add_argument("--photos", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(milliseconds(args.side, args.photos)))
        return
    pythons = {"main": sys.executable, "torch": args.torch_python, "simd": args.simd_python}
    sides = {name: pythons[python] for name, (_, python) in SIDES.items() if pythons[python]}
    times = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        for _ in range(args.rounds):
            for name, python in sides.items():
                command = [python, __file__, f"--side={name}", f"--photos={folder}"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times[name].append(json.loads(done.stdout.splitlines()[-1]))
    results = {
        name: {size: statistics.median(turn[size] for turn in turns) for size in turns[0]}
        for name, turns in times.items()
    }
    print("| processor ms a photo | 512 x 512 | 1600 x 1600 |\n|---|---|---|")
    for name, found in results.items():
        print(f"| {name} | {found['512']:.2f} | {found['1600']:.2f} |")
    place = Path(__file__).parent / "results" / "decode.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written: {place}")


if __name__ == "__main__":
    main()
