"""ImageNet weights: where they come from and what they expect.

Nothing here imports Keras or TensorFlow.
"""

from dataclasses import dataclass

from fir_tf.errors import FirError

LICENCE_NOTE = (
    "weights trained on ImageNet may carry non-commercial terms, whatever licence their file has: "
    "read those of the source"
)
"""What a person choosing such weights is told, once."""


@dataclass(frozen=True)
class Normalisation:
    """What is done to RGB pixels in [0, 255]: `PixelNormalisation`'s arguments."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet's pixels, as torch's networks have it."""


@dataclass(frozen=True)
class Weights:
    """ImageNet weights of a backbone and what follows from them.

    Attributes:
        source: str, who published them, for a person.
        file: str, name of the file in the cache or in its package; its suffix tells the format.
        checksum: str, "md5:" or "sha256:" and what the publisher says of the file, in hex. Torch's
            convention puts the first eight digits of the SHA-256 into the file's name: then no
            more than these are known.
        licence: str, of the file.
        top1: float, published accuracy on ImageNet's validation images, in percent: from
            keras.applications' or EfficientNet-Lite's own tables, else timm's
            results-imagenet.csv.
        normalisation: Normalisation, what they expect of the pixels.
        image_size: int, side of the square that `top1` was measured on.
        crop: float, share of the resized image's side which that square is.
        interpolation: str, of that resizing.
        url: str, where the file is; empty where it comes with `package`.
        package: str, the Python package that ships the file; empty where it is downloaded.
    """

    source: str
    file: str
    checksum: str
    licence: str
    top1: float
    normalisation: Normalisation = IMAGENET
    image_size: int = 224
    crop: float = 0.875
    interpolation: str = "bilinear"
    url: str = ""
    package: str = ""


# Where publishers keep their files.
KERAS_APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download"
TORCHVISION = "https://download.pytorch.org/models"


def imagenet_weights(name: str, weights: Weights | None) -> Weights:
    """Returns a backbone's ImageNet weights.

    Args:
        name: str, the backbone's.
        weights: Weights or None, what it has.

    Raises:
        FirError: it has none.
    """
    if weights is None:
        raise FirError(
            f"there are no ImageNet weights for the backbone {name}: --weights=none starts from "
            "random ones, --weights=FILE from yours"
        )
    return weights


def notice(weights: Weights) -> str:
    """Returns what a person is told who starts from ImageNet weights."""
    return f"ImageNet weights: {weights.source}, {weights.licence}. Note: {LICENCE_NOTE}"
