"""The converter: a torch state dict to a weights file of the Keras backbone."""

from pathlib import Path

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.files import replacing
from fir_tf.models.backbones import build_backbone
from fir_tf.models.pretrained.load import TORCH_SUFFIXES, load_torch


def convert(
    name: str, source: str | Path, target: str | Path, caffe_layout: bool = False
) -> tuple[int, list[str]]:
    """Converts a torch state dict to a weights file that `--weights` takes.

    Args:
        name: str, a registered backbone's.
        source: str or Path, a `.safetensors`, `.pth`, `.pt` or `.bin` file.
        target: str or Path, a `.weights.h5` file; written whole or not at all.
        caffe_layout: bool. A state dict does not show where a network has its strides; True says
            that this one has them where `resnet50` has them, on the first 1x1 convolutions.

    Returns:
        (int, list of str): the number of tensors used, and the names of those left out.

    Raises:
        FirError: if the state dict does not fit the network, naming each tensor that does not.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    backbone = registry.get("backbone", name)
    if source.suffix not in TORCH_SUFFIXES:
        raise FirError(f"`from` must end in {', '.join(TORCH_SUFFIXES)}. Received: {source}")
    if not target.name.endswith(".weights.h5"):
        raise FirError(f"`to` must end in .weights.h5. Received: {target}")
    if backbone.torch_refusal and not caffe_layout:
        raise FirError(
            f"cannot convert {source} to {name}: {backbone.torch_refusal}. If this file is of that "
            "layout, say so with --caffe_layout"
        )
    if caffe_layout and not backbone.torch_refusal:
        raise FirError(f"`caffe_layout` says nothing about {name}: leave it out")
    model = build_backbone(name, 64, weights=None)
    left_out = load_torch(model, backbone, source)
    with replacing(target) as temporary:
        model.save_weights(temporary)
    return len(model.weights), left_out
