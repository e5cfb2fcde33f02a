"""The one config object: every script's flags, the run folder's config.json."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fir_tf import __version__, files, registry
from fir_tf.errors import FirError
from fir_tf.losses import grammar
from fir_tf.settings import COLUMNS_HELP, PLUGINS_HELP, check_settings, option

_PLUGINS = "plugins.json"
# The smallest side of an image, which a network brings down to one place.
_SIDE_MIN = 32
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

# The largest share of an index or a copy that is removed without being asked to.
REMOVED_MAX = 0.1

# What fir_tf.datasets.walk does, for the help of the commands.
PHOTO_RULE = (
    "Photos are files ending in .jpg, .jpeg, .jpe, .jfif, .jif, .png, .gif, .bmp or .dib, in any"
    " case, and all others that are JPEG, PNG, GIF or BMP by their first bytes. Hidden (.name) "
    "and system (__MACOSX, @eaDir, Thumbs.db ...) files and folders are skipped, links are "
    "followed, each folder is read once; what is skipped is counted."
)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSettings:
    """How images become the pixels of a batch. Each field is a flag of the same name."""

    image_size: int = option(224, "Side of the input images in pixels.", within="[32, 4096] pixels")
    progressive_size: str = option(
        "",
        "Sides of the training images in the first stages of a run, such as 128,176; all stages, "
        "the last one at --image_size too, have equally many steps. Empty for that one alone.",
    )
    test_size: int = option(
        0,
        "Side of the images in pixels in validation, evaluation, export and search; 0 for "
        "--image_size. Larger often suits what was trained on crops.",
        within="[0, 4096] pixels",
    )
    resize: str = option(
        "crop",
        "How evaluation and serving fit an image: crop takes the centre of the image with the "
        "short side at 8/7 of --image_size, squash takes the whole image and gives up its "
        "proportions, pad takes the whole image on a white square.",
        ("crop", "squash", "pad"),
    )
    crop: str = option(
        "image",
        "What of a photo is looked at: image is all of it, as in the paper, box the garment's box "
        "where the data have one (list_bbox*.txt, a column box, a feed's polygon, COCO's bbox).",
        ("image", "box"),
    )
    crop_margin: float = option(
        0.0,
        "What is added to a box on each side, as a share of its width and height.",
        within="[0, 1]",
    )
    crop_area_min: float = option(
        0.3, "Smallest share of the image that a training crop keeps.", within="(0, 1]"
    )
    grayscale: float = option(
        0.1, "Probability that a training image loses its colour.", within="[0, 1]"
    )
    colour_jitter: float = option(
        0.0,
        "Strength of random brightness, contrast and saturation in training, 0 to 1.",
        within="[0, 1]",
    )
    random_erasing: float = option(
        0.0,
        "Probability that a rectangle of a training image is filled with random pixels.",
        within="[0, 1]",
    )
    rand_augment: bool = option(
        False, "Also apply keras-cv's RandAugment (slower; its draws do not resume exactly)."
    )
    seed: int = option(
        0, "Seed of initialisation, batches and augmentation.", within="[0, 2147483647]"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self._check_sizes()

    def _check_sizes(self) -> None:
        if 0 < self.test_size < _SIDE_MIN:
            raise FirError(
                f"`test_size` must be 0 or at least {_SIDE_MIN} pixels. Received: {self.test_size}"
            )
        try:
            good = all(_SIDE_MIN <= side <= 4096 for side in self.training_sizes())
        except ValueError:
            good = False
        if not good:
            raise FirError(
                f"`progressive_size` must be sizes from {_SIDE_MIN} to 4096 pixels such as "
                f"128,176. Received: {self.progressive_size!r}"
            )

    def training_sizes(self) -> list[int]:
        """Returns the sides of the training images, one a stage of the run, in pixels."""
        return [*_integers(self.progressive_size), self.image_size]

    @property
    def eval_size(self) -> int:
        """The side of the images of all that comes after training, in pixels."""
        return self.test_size or self.image_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What network is trained. Each field is a flag of the same name."""

    backbone: str = option("resnet50", "Network under the heads.", part="backbone")
    weights: str = option(
        "imagenet",
        "Where the backbone starts: imagenet (such weights may carry non-commercial terms), none, "
        "or the path of a weights file (.weights.h5, .h5, .safetensors, .pth).",
        path=True,
    )
    last_stride: int = option(
        2,
        "What the backbone's last stage divides the side of the feature map by; 1 gives four times "
        "as many places, in ResNets and SE-ResNe(X)ts, from the same weights.",
        within="[1, 2]",
    )
    pooling: str = option("average", "From the feature map to the features.", part="pooling")
    neck: str = option("linear", "From the features to the embedding.", part="neck")
    embedding_size: int = option(
        0,
        "Width of a learned projection to the embedding; 0 takes the pooled features as they are.",
        within="[0, inf)",
    )
    relaxation_width: int = option(
        512, "Hidden channels of the relaxation module.", within="[1, inf)"
    )
    dropout: float = option(0.5, "Dropout rate of the relaxation module.", within="[0, 1)")
    batch_norm: str = option(
        "auto",
        "frozen keeps the backbone's batch-norm statistics; batch updates them from each device's "
        "share of the batch, synchronized from the whole batch; auto is frozen for pretrained "
        "weights and batch for none.",
        ("auto", "frozen", "batch", "synchronized"),
    )
    freeze: int = option(
        0,
        "Parts of the backbone that stay as they are: 1 the stem, 2 to 5 also the stages at 1/4, "
        "1/8, 1/16 and 1/32 of the image's size.",
        within="[0, 5]",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast a model is trained. Each field is a flag of the same name."""

    epochs: int = option(200, "Passes over the training images.", within="[1, inf)")
    learning_rate: float = option(1e-4, "Adam's learning rate at the start.", within="(0, inf)")
    backbone_learning_rate: float = option(
        0.0,
        "Learning rate of the backbone, on the same schedule; 0 takes --learning_rate.",
        within="[0, inf)",
    )
    loss_learning_rate: float = option(
        0.0,
        "Learning rate of the variables that losses have of their own, such as class centres, on "
        "the same schedule; 0 takes --learning_rate.",
        within="[0, inf)",
    )
    schedule: str = option(
        "step",
        "step multiplies the learning rate by 0.1 after each of --decay_epochs, cosine lets it "
        "fall to 0 along half a cosine, constant keeps it.",
        ("step", "cosine", "constant"),
    )
    decay_epochs: str = option(
        "100,150",
        "Epochs after which --schedule=step multiplies the learning rate by 0.1, as in the "
        "paper; empty for never.",
    )
    warmup_epochs: float = option(
        0.0,
        "Epochs over which the learning rate rises linearly from 0, before the schedule.",
        within="[0, inf)",
    )
    freeze_epochs: float = option(
        0.0,
        "Epochs at the start in which the backbone stays as it is and the heads and the losses' "
        "variables are trained alone.",
        within="[0, inf)",
    )
    weight_decay: float = option(
        0.0,
        "Decoupled weight decay (AdamW) of kernels; biases and batch norm are left out.",
        within="[0, inf)",
    )
    clip_norm: float = option(
        0.0,
        "Largest norm of the gradient over all variables together; 0 for no limit.",
        within="[0, inf)",
    )
    accumulate: int = option(
        1,
        "Batches whose gradients are averaged for one update; triplets stay within a batch.",
        within="[1, inf)",
    )
    ema: float = option(
        0.0,
        "Momentum of a moving average of the weights, such as 0.999; it is what gets validated "
        "and saved. 0 for none.",
        within="[0, 1)",
    )
    patience: int = option(
        0,
        "Validations without a better model after which training ends; 0 for never.",
        within="[0, inf)",
    )
    jit: str = option(
        "auto",
        "Compile forward pass, losses and gradients with XLA: on, off, or auto, which is on "
        "where there is one GPU.",
        ("auto", "on", "off"),
    )
    remat: bool = option(
        False,
        "Compute the backbone's activations again in the backward pass instead of keeping them: "
        "less memory, more time.",
    )
    steps_per_loop: int = option(
        1, "Steps between two returns to Python; large values suit a TPU.", within="[1, inf)"
    )
    eval_every: int = option(1, "Epochs between two validations.", within="[1, inf)")
    log_every: int = option(10, "Steps between two entries of the log.", within="[1, inf)")
    profile: str = option(
        "", "First and last step of a TensorBoard trace in the run's logs, such as 20,30."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        self._check(
            lambda: all(epoch >= 1 for epoch in self.decays()),
            "decay_epochs",
            "epochs >= 1 such as 100,150",
        )
        self._check(self._profiles, "profile", "two steps such as 20,30")

    def _check(self, good: Callable[[], bool], name: str, what: str) -> None:
        try:
            if good():
                return
        except ValueError:
            pass
        raise FirError(f"`{name}` must be {what}. Received: {getattr(self, name)!r}")

    def _profiles(self) -> bool:
        steps = _integers(self.profile)
        return not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1])

    def decays(self) -> list[int]:
        """Returns `decay_epochs` as a list of int in ascending order."""
        return sorted(_integers(self.decay_epochs))

    def profiled(self) -> tuple[int, int] | None:
        """Returns the first and the last step to trace, or None."""
        steps = _integers(self.profile)
        return (steps[0], steps[1]) if steps else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(InputSettings, ModelSettings, LoopSettings):
    """What a training run is made of. Each field is a flag of train.py of the same name."""

    run: str = option(
        "runs/inshop", "Folder of the run: everything it writes goes there.", path=True
    )
    dataset: str = option("inshop", "Layout of the data.", part="dataset")
    data_dir: str = option(
        "data/inshop",
        "Folder of the data set, or its img_highres or Anno_fine folder to take that one; with "
        "--dataset=table the CSV or Parquet file, with --dataset=feed the product feed. "
        f"In a plain folder: {PHOTO_RULE}",
        path=True,
    )
    columns: str = option("", COLUMNS_HELP)
    extra_data: str = option(
        "",
        "Further sources of training images, as dataset:path[,dataset:path...], with --columns of "
        "their own as table(item=sku,path=photo):more.csv; each image takes part in the losses it "
        "has a label for.",
        path=True,
    )
    gallery_scope: str = option(
        "test",
        "Gallery of Consumer-to-Shop: the shop images of the test set (the data set's README), "
        "or those of val and test (some papers).",
        ("test", "val+test"),
    )
    val_fraction: float = option(
        0.1,
        "Share of the training items kept back to choose the best checkpoint on, where the data "
        "set brings no validation part of its own.",
        within="[0, 0.9]",
    )
    cv_fold: str = option(
        "",
        "Fold of a cross-validation over the training items, such as 1/3 for the first of three: "
        "it is not trained on, and evaluate.py --split=cv_fold measures it. Empty for none.",
    )
    losses: str = option("OC+IS", grammar.HELP)
    alpha: float = option(1.0, "Weight of OC.", within="[0, inf)")
    beta: float = option(0.1, "Weight of the similarity losses OS and IS.", within="[0, inf)")
    delta: float = option(
        0.3, "Margin of the triplet loss, in squared L2 distance.", within="[0, inf)"
    )
    triplets: str = option(
        "all",
        "explicit forms (anchor, positive, negative) batches as in the paper's Equation 1; a miner "
        "finds the triplets in batches of P items x K images.",
        ("explicit",),
        part="miner",
    )
    sampler: str = option(
        "", "How batches are drawn; what the losses need when not given.", part="sampler"
    )
    batch_size: int = option(
        32,
        "Images in a batch; with --triplets=explicit triplets in a batch, of 3 images each.",
        within="[1, inf)",
    )
    images_per_item: int = option(4, "K: images of an item in a batch of P x K.", within="[1, inf)")
    items_per_category: int = option(
        1,
        "Items of one category that are together in a batch of P x K, as each other's hard "
        "negatives; it must divide P. 1 for any items.",
        within="[1, inf)",
    )
    cross_domain: bool = option(
        False,
        "Draw half of an item's K images from consumers' photos and half from the shop's, where "
        "it has both.",
    )
    category_fraction: float = option(
        0.0,
        "Share of each batch drawn for OC alone from all images with a category; needed when a "
        "source has categories only.",
        within="[0, 1)",
    )
    interpolate: bool = option(
        False,
        "After training take the weights between the backbone's at the start and the best model's "
        "that do best on the validation part (WiSE-FT).",
    )
    label_smoothing: float = option(
        0.0, "Share of a classification's target spread evenly over all classes.", within="[0, 1)"
    )
    distribute: str = option(
        "auto",
        "auto uses all GPUs of the machine; mirrored does so by name, multiworker reads the "
        "cluster from TF_CONFIG, tpu connects to the local TPU, none takes one device. Triplets "
        "are found in the global batch, whatever the number of devices.",
        ("auto", "none", "mirrored", "multiworker", "tpu"),
    )
    mixed_precision: str = option(
        "float32",
        "Number format of the network; auto takes the fastest one for the backbone on this "
        "device. Distances, softmax, weights and the saved model are float32 in any case.",
        ("float32", "bfloat16", "float16", "auto"),
    )
    deterministic: bool = option(
        False, "Make every operation repeatable to the bit (slower on GPUs)."
    )
    resume: bool = option(True, "Go on where an interrupted run of the same config stopped.")
    dry_run: bool = option(
        False, "Only show the plan and try one step: steps, images, time and memory."
    )
    actions: str = option(
        "", "Actions of yours in the training loop, with commas; --plugins brings them."
    )
    plugins: str = option("", PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        # It checks every field, those of the input and the model too.
        LoopSettings.__post_init__(self)
        self._check_sizes()
        for name in self.action_names():
            registry.check("action", name)
        if not self.run.strip():
            raise FirError(f"`run` must be a folder's path. Received: {self.run!r}")
        _check_losses(self)

    def action_names(self) -> list[str]:
        """Returns `actions` as a list of str."""
        return [name.strip() for name in self.actions.split(",") if name.strip()]

    def terms(self) -> tuple[grammar.Term, ...]:
        """Returns the terms of `losses` with their weights."""
        return tuple(
            dataclasses.replace(
                term,
                weight=(getattr(self, term.flag) if term.flag else 1.0)
                if term.weight is None
                else term.weight,
            )
            for term in grammar.parse_losses(self.losses)
        )

    def loss_settings(self) -> grammar.LossSettings:
        """Returns what the flags say to losses."""
        return grammar.LossSettings(self.delta, self.triplets, self.label_smoothing)

    def reads(self, output: str) -> bool:
        """Returns whether a loss reads an output of the model, such as "logits"."""
        return output in (
            term.output or registry.get("loss", term.loss).output for term in self.terms()
        )

    def save(self, path: str | Path) -> None:
        """Writes the config as JSON to `path`, and what its plugins brought beside it."""
        brought = registry.brought(self.plugins)
        files.write_json(path, dataclasses.asdict(self) | {"plugins": ",".join(brought)})
        files.write_json(Path(path).with_name(_PLUGINS), brought)

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Reads what `save` wrote and loads the plugins that are named there.

        Raises:
            FirError: if the file is missing or damaged or has fields or values this version lacks
                (the message names the version that wrote it), or the run was made with plugins
                that cannot be loaded.
        """
        path = Path(path)
        if not path.is_file():
            raise FirError(
                f"{path.parent} is not the folder of a run: {path.name} is missing there. A run's "
                "folder is what train.py wrote: its --run, the --run of evaluate.py and export.py, "
                "the --model of search.py"
            )
        values = files.read_json(path, "Copy the run's folder again, or train again")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            this = f"fir_tf {__version__}"
            writer = _writer(path)
            advice = (
                f"Another development state of {this} wrote the run: use that, or remove "
                f"{', '.join(unknown)} there"
                if writer == this
                else f"Use {writer or 'the version'} that wrote the run"
            )
            raise FirError(
                f"{path} has settings that {this} does not know: {', '.join(unknown)}. {advice}"
            )
        for name, value in values.items():
            kind = type(fields[name].default)
            fits = (int, float) if kind is float else kind
            if not isinstance(value, fits) or isinstance(value, bool) != (kind is bool):
                raise FirError(
                    f"{path}: `{name}` must be {_KINDS[kind]}. Received: {json.dumps(value)}. "
                    "Copy the run's folder again, or correct it there"
                )
        try:
            registry.require(_read_plugins(path.with_name(_PLUGINS)), f"the run {path.parent}")
            return cls(**values)
        except FirError as error:
            writer = _writer(path)
            own = writer in ("", f"fir_tf {__version__}")
            advice = "" if own else f". Use {writer}, which wrote the run: this is {__version__}"
            raise FirError(f"{path}: {error}{advice}") from error

    def differences(self, other: "Config") -> dict[str, tuple[Any, Any]]:
        """Returns {name: (own, other's)} for the settings a resumed run may not change."""
        free = {
            "run",
            "resume",
            "log_every",
            "data_dir",
            "distribute",
            "steps_per_loop",
            "remat",
            "dry_run",
            "profile",
            "actions",
            "plugins",
        }
        return {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
            if field.name not in free and getattr(self, field.name) != getattr(other, field.name)
        }


def _writer(path: Path) -> str:
    """Returns the fir_tf that wrote a run's config, such as "fir_tf 0.1.0"; "" if not known."""
    try:
        versions = files.read_json(path.with_name("versions.json"), "")
    except FirError:
        return ""
    return f"fir_tf {versions['fir_tf']}" if "fir_tf" in versions else ""


def _read_plugins(path: Path) -> dict[str, list[str]]:
    """What `Config.save` wrote of the plugins; a run may have been made before there were any."""
    if not path.is_file():
        return {}
    values = files.read_json(path, "Copy the run's folder again")
    good = all(isinstance(parts, list) for parts in values.values())
    parts: list[Any] = sum(values.values(), []) if good else [None]
    if not all(isinstance(part, str) and len(part.split()) == 2 for part in parts):
        raise FirError(f"{path} must list parts by plugin. Copy the run's folder again")
    return values


def _check_losses(config: Config) -> None:
    terms = config.terms()
    if not any(term.weight for term in terms):
        raise FirError(
            f"nothing would be trained: with --losses={config.losses}, `alpha` or `beta` must be "
            "> 0 for a loss in the sum, or a weight of its own. "
            f"Received: alpha={config.alpha}, beta={config.beta}"
        )
    groups = any(term.flag == "beta" for term in terms) and config.triplets != "explicit"
    if groups and not config.sampler:
        if config.images_per_item < 2:
            raise FirError(
                f"`images_per_item` must be at least 2. Received: {config.images_per_item}"
            )
        room = config.batch_size - round(config.batch_size * config.category_fraction)
        if room % config.images_per_item or room < 2 * config.images_per_item:
            raise FirError(
                "`batch_size` without its share of `category_fraction` must be a multiple of "
                f"`images_per_item` ({config.images_per_item}), at least twice it. "
                f"Received: {room} of {config.batch_size} images"
            )
