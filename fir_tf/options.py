"""Options that commands share, those of evaluate.py and export.py, and which run they mean."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.settings import COLUMNS_HELP, PLUGINS_HELP, check_within, option
from fir_tf.shell import quiet_import

log = logging.getLogger(__package__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """What is embedded of a photo, see `fir_tf.evaluation.views`."""

    flip: bool = option(False, "Embed the mean of a photo and its mirror image.")
    scales: str = option(
        "1", "Embed the mean over image sizes, such as 1,1.5 times the model's own."
    )
    crop: str = option(
        "",
        "What of a photo is looked at: image is all of it, box the garment's box where the data "
        "have one; what the model was trained with when not given.",
        ("", "image", "box"),
    )
    crop_margin: float = option(
        -1.0,
        "What is added to a box on each side, as a share of its width and height; what the model "
        "was trained with when below 0.",
        within="[-1, 1]",
    )

    def cropping(self, crop: str, margin: float) -> dict[str, Any]:
        """Returns `crop` and `crop_margin` as asked for, or else the given ones.

        Raises:
            FirError: one is out of range.
        """
        check_within("crop_margin", self.crop_margin, "[-1, 1]")
        own = margin if self.crop_margin < 0 else self.crop_margin
        return {"crop": self.crop or crop, "crop_margin": own}


def parse_scales(text: str) -> tuple[float, ...]:
    """Reads a flag such as "1,1.5".

    Args:
        text: str, positive numbers separated by commas.

    Returns:
        tuple of float.

    Raises:
        FirError: it is empty or holds anything else.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < 10 for scale in scales):
        raise FirError(
            "`scales` must be numbers above 0 and below 10, separated by commas, such as 1,1.5. "
            f"Received: {text!r}"
        )
    return scales


@dataclasses.dataclass(frozen=True, kw_only=True)
class Improvements:
    """What is done for better answers, see `fir_tf.evaluation.rerank`."""

    expand: int = option(
        0, "Alpha query expansion: average a query with this many of its nearest images."
    )
    expand_alpha: float = option(3.0, "Weight of such an image: its similarity to this power.")
    rerank: int = option(0, "k-reciprocal re-ranking of this many results; 0 is off.")

    def __post_init__(self) -> None:
        at_least(self, 0, "expand", "expand_alpha", "rerank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """How photos at addresses are fetched, see `fir_tf.remote.photos.RemotePhotos`."""

    photo_cache: str = option(
        "",
        "Folder that fetched photos are kept in; photos/ in the cache folder of fir_tf, such as "
        "~/.cache/fir_tf, when not given. Several processes may share it.",
        path=True,
    )
    photo_cache_gb: float = option(
        20.0,
        "Gigabytes that it may hold. What was used least recently leaves it, never what is "
        "being worked on.",
        within="[0, inf)",
    )
    photo_timeout: float = option(
        60.0, "Seconds in which a photo must be there, without pauses.", within="(0, inf)"
    )
    connections: int = option(32, "Photos that are fetched at a time.", within="[1, 1024]")
    host_connections: int = option(8, "As many of them from one host.", within="[1, 1024]")
    allow_private: bool = option(
        False,
        "Fetch from private and loopback addresses too. Who writes the feed can then reach what "
        "this machine reaches.",
    )
    user_agent: str = option("", "Name given to servers; fir_tf and its version when not given.")

    def check_fetching(self) -> None:
        """Raises FirError unless each field has a value that it may have."""
        for field in dataclasses.fields(FetchOptions):
            if field.metadata["within"]:
                check_within(field.name, getattr(self, field.name), field.metadata["within"])
        if not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise FirError(f"`user_agent` must be printable ASCII. Received: {self.user_agent!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefreshOptions(FetchOptions):
    """How photos at addresses are fetched, and when a server is asked for them again."""

    photo_max_age: float = option(
        24.0,
        "Hours after which a server is asked again whether a photo has changed.",
        within="[0, inf)",
    )

    def check_fetching(self) -> None:
        """Raises FirError unless each field has a value that it may have."""
        super().check_fetching()
        check_within("photo_max_age", self.photo_max_age, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(Improvements, Views):
    """What evaluate.py is told. Each field is a flag of the same name."""

    run: str = option("", "Folder of the run; the newest below runs/ when not given.", path=True)
    data_dir: str = option("", "Folder of the data set; the run's own when not given.", path=True)
    dataset: str = option(
        "",
        "Layout of the data; the run's own when not given.",
        part="dataset",
    )
    columns: str = option("", f"{COLUMNS_HELP} The run's own when neither these nor --dataset are.")
    gallery_scope: str = option(
        "",
        "Gallery of Consumer-to-Shop: the shop images of the test set, or those of val and test; "
        "the run's own when not given.",
        ("", "test", "val+test"),
    )
    split: str = option(
        "test",
        "Part of the data that is measured; cv_fold is what train.py --cv_fold=... left out.",
        ("test", "val", "cv_fold"),
    )
    batch_size: int = option(64, "Images in a batch.")
    output: str = option(
        "", "Folder for metrics.json and the pictures; the run's when not given.", path=True
    )
    compare: str = option(
        "",
        "Folder of another evaluated run: adds its numbers, the paired interval of the difference "
        "and the queries whose answer changed.",
        path=True,
    )
    sheet_rows: int = option(8, "Queries on the contact sheet.")
    sheet_matches: int = option(
        3, "Matches shown for each query; three as in the paper's Figure 2."
    )
    whiten: int = option(
        0,
        "PCA-whiten embeddings to this many numbers, learned on the training images; writes "
        "whitening.npz, which search.py index takes. 0 is off.",
    )
    projector: bool = option(
        False,
        "Also write projector/ with the embeddings: tensorboard --logdir=<output>/projector.",
    )
    plugins: str = option("", f"{PLUGINS_HELP} Those of the run are known.", path=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.load_plugins(self.plugins)
        at_least(self, 1, "batch_size", "sheet_rows", "sheet_matches")
        at_least(self, 0, "whiten")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What export.py is told. Each field is a flag of the same name."""

    run: str = option("", "Folder of the run; the newest below runs/ when not given.", path=True)
    output: str = option(
        "",
        "Folder of the model's versions; `export/fir` in the run's folder when not given, for "
        "another --format `export/fir_<format>`.",
        path=True,
    )
    version: int = option(0, "Version below --output; the next free one when 0.")
    format: str = option(
        "saved_model",
        "What is written: saved_model is for TF Serving, openvino for OpenVINO and its model "
        "server, tflite for LiteRT on phones in float16 and int8.",
        part="format",
    )
    top: int = option(5, "Categories returned for each image.")
    fold: bool = option(True, "Fold the batch norms into the convolutions: the same to 1e-5.")
    precision: str = option(
        "float32",
        "Type the network computes in: float32, bfloat16 (SavedModel) for processors that have "
        "it, or int8 (OpenVINO, ONNX), whose ranges are read off training photos; what that costs "
        "in recall is measured and printed.",
        ("float32", "bfloat16", "int8"),
    )
    gallery: str = option(
        "",
        "Images to search, put into the SavedModel: dataset:path such as inshop:data/inshop, or "
        "the path of a folder of photos or of a table.",
        path=True,
    )
    columns: str = option("", f"{COLUMNS_HELP} Those of --gallery.")
    gallery_split: str = option(
        "gallery", "Part of --gallery that is searched: its gallery, or all.", ("gallery", "all")
    )
    gallery_dtype: str = option(
        "float32",
        "How the gallery's vectors are held: bfloat16 takes half the memory, int8 a quarter; "
        "what that costs in recall is measured and printed.",
        ("float32", "bfloat16", "int8"),
    )
    data_dir: str = option(
        "",
        "Data set that losses of recall are measured on; the run's own when not given.",
        path=True,
    )
    plugins: str = option("", f"{PLUGINS_HELP} Those of the run are known.", path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        at_least(self, 1, "top")
        at_least(self, 0, "version")
        asked = {"gallery": "--gallery"} if self.gallery else {}
        if self.precision != "float32":
            asked[self.precision] = f"--precision={self.precision}"
        if asked:
            _check_taken(self.format, asked)


def _check_taken(name: str, asked: Mapping[str, str]) -> None:
    """Raises FirError, naming the formats that do, unless a format takes what is asked for."""

    def takes(each: str) -> bool:
        # A format's file imports TensorFlow.
        with quiet_import():
            return set(asked) <= set(getattr(registry.get("format", each), "takes", ()))

    if not takes(name):
        able = ", ".join(filter(takes, registry.names("format")))
        where = f"is for --format={able}" if able else "is for no format: give one of them"
        raise FirError(f"{' with '.join(asked.values())} {where}. Received: --format={name}")


def at_least(options: Any, bound: int, *names: str) -> None:
    """Raises FirError unless the fields of these names are at least `bound`."""
    for name in names:
        if getattr(options, name) < bound:
            raise FirError(f"`{name}` must be >= {bound}. Received: {getattr(options, name)}")


def check_share(name: str, value: float) -> None:
    """Raises FirError unless the option of that name is between 0 and 1."""
    if not 0 <= value <= 1:
        raise FirError(f"`{name}` must be between 0 and 1. Received: {value}")


def find_run(run: str | Path, runs: str | Path = "runs") -> Path:
    """Returns the Path of the run that is meant: `run`, or the newest below `runs`.

    Raises:
        FirError: if none is given and there is none.
    """
    if run:
        return Path(run)
    found = [path.parent for path in Path(runs).glob("*/config.json")]
    if not found:
        raise FirError(
            f"no run was given and there is none below {runs}/. Train one first, or give --run"
        )
    newest = max(found, key=lambda path: (path / "config.json").stat().st_mtime)
    log.info(f"run: {newest} (the newest below {runs}/)")
    return newest
