"""What a locator finds in photos of several garments, and what that does for search.

  python -m fir_tf.datasets boutique --out=data/boutique_scenes --scenes=240
  python train.py --flagfile=quickstart.flags --data_dir=data/boutique_scenes --run=runs/located
  python benchmarks/locate.py --run=runs/located --data_dir=data/boutique_scenes --most=60

The queries are the garments of the boutique's scenes, the gallery its shop's photos. Each garment
is asked for with the whole photo, with its true box and with the located box that lies on it best,
which is the one that a person chooses; where none does, with the whole photo. Of the boutique's own
queries every other that is a consumer's photo of one garment is asked with as it is and with its
surest box. Prints the tables of docs/garments.md and writes benchmarks/results/locate.json.
Several locators, as in --locator category_map:@1.5 category_map:@2, show what scales cost and find.
"""

import argparse
import collections
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import fir_tf  # noqa: F401, isort:skip  # before TensorFlow: it switches oneDNN on
import numpy as np
from tqdm import tqdm

from fir_tf import datasets
from fir_tf.boutique import SCENES
from fir_tf.evaluation.embedder import Embedder
from fir_tf.files import write_json
from fir_tf.images.picture import see
from fir_tf.locate import cut, open_locator, png
from fir_tf.neighbours import top_k
from fir_tf.run import load_run

RESULTS = Path(__file__).parent / "results"
PIECE = 32


def read_scenes(root, most):
    """Returns [(path, [(item, box)])] of the scenes of items kept from training."""
    found = json.loads((root / SCENES).read_text(encoding="utf-8"))
    garments = collections.defaultdict(list)
    sides = {image["id"]: (image["width"], image["height"]) for image in found["images"]}
    for row in found["annotations"]:
        width, height = sides[row["image_id"]]
        left, top, across, down = row["bbox"]
        box = (left / width, top / height, across / width, down / height)
        garments[row["image_id"]].append((row["item"], box))
    images = [image for image in found["images"] if image["split"] == "query"][: most or None]
    return [(root / image["file_name"], garments[image["id"]]) for image in images]


def overlap(one, other):
    """Returns the share that the intersection of two boxes has of their union."""
    start = np.maximum(one[:2], other[:2])
    end = np.minimum(np.add(one[:2], one[2:]), np.add(other[:2], other[2:]))
    shared = np.prod(np.maximum(end - start, 0))
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def in_pieces(function, photos, what):
    """Returns what a function of a list makes of photos, a few at a time."""
    found = []
    for start in tqdm(range(0, len(photos), PIECE), desc=what, disable=None):
        found += list(function(photos[start : start + PIECE]))
    return found


class Search:
    """Photos -> whether the nearest photo of a gallery is of their item."""

    def __init__(self, embedder, gallery):
        self._embedder, self._known = embedder, {}
        self._vectors = embedder.catalogue(gallery).embedding
        self._items = [gallery.items[item] for item in gallery.item]

    def embed(self, photos):
        """Returns float32 [n, d]."""
        return self._embedder.photos(photos).embedding

    def right(self, photos, items, what):
        """Returns bool [n]; what is asked again is not embedded again."""
        new = [photo for photo in dict.fromkeys(photos) if photo not in self._known]
        self._known |= dict(zip(new, in_pieces(self.embed, new, what), strict=True))
        vectors = [self._known[photo] for photo in photos]
        nearest = top_k(np.stack(vectors), self._vectors, 1)[1][:, 0]
        return np.array([self._items[row] for row in nearest]) == np.array(items)


def seconds_of(function, photos):
    """Returns the processor seconds that a function takes for a photo of a few, at best."""
    part, took = photos[:PIECE], []
    # The first time it is traced.
    for _ in range(4):
        start = time.process_time()
        function(part)
        took.append((time.process_time() - start) / len(part))
    return min(took[1:])


def of_scenes(scenes, locate, search):
    """Returns the rows of the table of scenes: one for each number of garments, and several."""
    contents = [path.read_bytes() for path, _ in scenes]
    located = in_pieces(locate, contents, "locating")
    rows = collections.defaultdict(list)
    for photo, (_, garments), found in zip(contents, scenes, located, strict=True):
        picture = see(photo).image
        for item, box in garments:
            shared = [overlap(box, other.box) for other in found]
            best = int(np.argmax(shared)) if shared and max(shared) > 0 else None
            rows["count"].append(len(garments))
            rows["items"].append(item)
            rows["found"].append(max(shared, default=0) >= 0.5)
            rows["whole"].append(photo)
            rows["true"].append(png(cut(picture, box)))
            rows["located"].append(photo if best is None else png(cut(picture, found[best].box)))
            rows["boxes"].append(len(found))
    right = {name: search.right(rows[name], rows["items"], name) for name in FORMS}
    count, hit = np.array(rows["count"]), np.array(rows["found"])
    table = {}
    for name, chosen in [
        ("1", count == 1),
        ("2", count == 2),
        ("3", count == 3),
        ("2, 3", count > 1),
    ]:
        if chosen.any():
            values = {form: float(right[form][chosen].mean()) for form in FORMS}
            boxes = float(np.array(rows["boxes"])[chosen].mean())
            table[name] = {
                "garments": int(chosen.sum()),
                "found": float(hit[chosen].mean()),
                "boxes": boxes,
                **values,
            }
    return table


FORMS = ("whole", "true", "located")


def of_singles(catalogue, locate, search):
    """Returns recall@1 of consumers' photos of one garment: whole, and by the surest box."""
    photos = [Path(path).read_bytes() for path in catalogue.files()]
    items = [catalogue.items[item] for item in catalogue.item]
    cuts = [
        png(cut(see(photo).image, found[0].box)) if found else photo
        for photo, found in zip(photos, in_pieces(locate, photos, "locating"), strict=True)
    ]
    return {
        "photos": len(photos),
        "whole": float(search.right(photos, items, "whole").mean()),
        "located": float(search.right(cuts, items, "located").mean()),
    }


def tell(name, found, whole_seconds):
    """Prints the table of a locator and what follows from it."""
    table, singles, seconds = found["scenes"], found["singles"], found["seconds"]
    print(f"\n{name}")
    print(f"| garments in a photo | garments | found at IoU .5 | boxes | {' | '.join(FORMS)} |")
    print("|---" * 7 + "|")
    for count, row in table.items():
        shares = " | ".join(f"{row[form]:.3f}" for form in FORMS)
        print(
            f"| {count} | {row['garments']} | {row['found']:.2f} | {row['boxes']:.1f} | {shares} |"
        )
    whole, true, located = (table["2, 3"][form] for form in FORMS)
    print(f"of the gain by true boxes located ones bring {(located - whole) / (true - whole):.2f}")
    print(f"located boxes find {located / whole:.2f} times as many as whole photos")
    print(
        f"photos of one garment ({singles['photos']}): whole {singles['whole']:.3f}, "
        f"located {singles['located']:.3f}"
    )
    print(
        f"locating takes {1e3 * seconds:.1f} processor milliseconds a photo, "
        f"{seconds / whole_seconds:.1f} times those of embedding it"
    )


def main():
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument(
        "--data_dir", required=True, help="boutique in In-Shop's layout with scenes"
    )
    parser.add_argument(
        "--locator", nargs="+", default=["category_map"], help="what finds them (%(default)s)"
    )
    parser.add_argument("--most", type=int, default=0, help="scenes; all of them when 0")
    args = parser.parse_args()
    model, config, _ = load_run(args.run)
    catalogue = datasets.load("inshop", args.data_dir)
    search = Search(Embedder(model, config.eval_size, config.resize), catalogue.part("gallery"))
    scenes = read_scenes(Path(args.data_dir), args.most)
    queries = catalogue.part("query")
    consumers = np.array(["additional" in path for path in queries.path])
    consumers = queries.rows(consumers & (np.arange(len(queries)) % 2 == 0))
    photos = [path.read_bytes() for path, _ in scenes]
    whole, results = seconds_of(search.embed, photos), {}
    for name in args.locator:
        locate = open_locator(name, args.run)
        results[name] = {
            "seconds": seconds_of(locate, photos),
            "scenes": of_scenes(scenes, locate, search),
            "singles": of_singles(consumers, locate, search),
        }
        tell(name, results[name], whole)
    write_json(RESULTS / "locate.json", {"seconds_of_embedding": whole, "locators": results})


if __name__ == "__main__":
    main()
