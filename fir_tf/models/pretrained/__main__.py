"""`python -m fir_tf.models.pretrained COMMAND`: ImageNet weights from the shell."""

import argparse
import os
import sys
from collections.abc import Sequence

from fir_tf import registry
from fir_tf.models.pretrained import LICENCE_NOTE, Weights, imagenet_weights, notice
from fir_tf.settings import PLUGINS_HELP
from fir_tf.shell import given_path, quiet_import, run_command

# TensorFlow's C++ log says nothing a user of the commands can act on; set before its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _weights(name: str) -> Weights | None:
    with quiet_import():
        return registry.get("backbone", name).weights


def _list(_: argparse.Namespace) -> None:
    for name in registry.names("backbone"):
        weights = _weights(name)
        if not weights:
            continue
        place = f"package {weights.package}" if weights.package else f"{weights.url}/{weights.file}"
        print(
            f"{name}\n"
            f"  {weights.source}, {weights.licence}\n"
            f"  {place} ({weights.checksum})\n"
            f"  ImageNet top-1 {weights.top1:.1f} % at {weights.image_size} px, crop "
            f"{weights.crop}, {weights.interpolation}; pixels "
            f"{'BGR' if weights.normalisation.bgr else 'RGB'} - {weights.normalisation.mean}, "
            f"/ {weights.normalisation.std}"
        )
    print(f"\nNote: {LICENCE_NOTE}.")


def _download(options: argparse.Namespace) -> None:
    from fir_tf.models.pretrained.download import imagenet_file

    weights = imagenet_weights(options.backbone, _weights(options.backbone))
    print(notice(weights), flush=True)
    print(imagenet_file(weights))


def _convert(options: argparse.Namespace) -> None:
    from fir_tf.models.pretrained.convert import convert

    source, target = given_path("from", options.source), given_path("to", options.target)
    used, left_out = convert(options.backbone, source, target, options.caffe_layout)
    classifier = [name for name in left_out if not name.endswith(".num_batches_tracked")]
    print(
        f"{target}: {used} variables of {options.backbone}; left out the classifier "
        f"({', '.join(classifier) or 'not there'}) and {len(left_out) - len(classifier)} step "
        f"counters\nNote: {LICENCE_NOTE}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fir_tf.models.pretrained",
        description="ImageNet weights of the backbones.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="where the weights come from and what they expect")
    download = commands.add_parser(
        "download",
        help="fetch a backbone's weights into the cache, for a machine without network",
        description="Fetches a backbone's weights into the cache and prints the file's path. "
        "Environment: FIR_TF_CACHE (folder), FIR_TF_MIRROR (base URL with all files), "
        "FIR_TF_OFFLINE, HTTPS_PROXY.",
    )
    convert = commands.add_parser(
        "convert",
        help="turn a torch state dict into a weights file for --weights",
        description="Turns a torch state dict (.safetensors, .pth) of a network of the same layout "
        "into a .weights.h5 file for --weights. Every tensor is used or named.",
    )
    for command in (download, convert):
        command.add_argument(
            "--backbone", required=True, help=f"one of {', '.join(registry.names('backbone'))}"
        )
        command.add_argument("--plugins", default="", help=PLUGINS_HELP)
    convert.add_argument("--from", required=True, dest="source", metavar="FILE")
    convert.add_argument("--to", required=True, dest="target", metavar="FILE.weights.h5")
    convert.add_argument(
        "--caffe_layout",
        action="store_true",
        help="for resnet50: the file's network has its strides on the first 1x1 convolutions",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    commands = {"list": _list, "download": _download, "convert": _convert}

    def body() -> None:
        options = _parser().parse_args(argv)
        if "backbone" in options:
            registry.load_plugins(given_path("plugins", options.plugins))
            registry.check("backbone", options.backbone)
        commands[options.command](options)

    return run_command(body)


if __name__ == "__main__":
    sys.exit(main())
