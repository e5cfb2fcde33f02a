"""Reads weights saved by torch, without torch and without running what the file says."""

import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from fir_tf.errors import FirError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict that `torch.save` wrote.

    Understands both formats: the zip archive of torch 1.6 and later, and the row of pickles
    before it. Both hold a pickle, which could name any Python function to be called: here only
    the few names that make up a tensor are known, each standing for code of this module, and
    any other name is refused before anything is called.

    Args:
        path: str or Path of a `.pth`, `.pt` or `.bin` file: a mapping of names to tensors, or a
            checkpoint with such a mapping under "state_dict".

    Returns:
        dict of str to np.ndarray, in the file's order, contiguous, of the tensor's shape and
        type (bfloat16 as `ml_dtypes.bfloat16`).

    Raises:
        FirError: naming `path`, if the file is missing, cut short, not of torch, asks for
            something other than tensors, or has a tensor reaching outside its storage.
    """
    path = Path(path).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FirError(f"cannot read the weights file {path}: {error.strerror}") from error
    try:
        if content[:4] == b"PK\x03\x04":
            records, arrays = _read_zip(content)
        else:
            records, arrays = _read_legacy(content)
        return {
            name: _rebuild(name, record, arrays[record.storage.key])
            for name, record in records.items()
        }
    except FirError as error:
        raise FirError(f"{path}: {error}") from error
    # A pickle of unknown origin can fail in any way; whichever it was, the file is at fault.
    except Exception as error:
        raise FirError(
            f"{path} is not a weights file of torch, or it is damaged "
            f"({type(error).__name__}: {error})"
        ) from error


# A storage is (type name, key, number of elements); a tensor refers to it.
class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Records = dict[str, _Tensor]
_Arrays = dict[str, np.ndarray]


class _Unpickler(pickle.Unpickler):
    """Builds records of tensors; knows no other global than those of `find_class`."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}
        self._globals = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _Tensor(*args[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *args: data,
            # A storage type is a plain string: nothing to call, nothing to alter.
            **{("torch", name): name for name in _STORAGES},
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._globals[module, name]
        except KeyError:
            raise FirError(
                f"asks for {module}.{name}, which a file of weights has no need of: not loaded. "
                "Save the state dict only, torch.save(model.state_dict(), path)"
            ) from None

    def persistent_load(self, identity: Any) -> _Storage:
        tag, kind, key, _, length = identity[:5]
        if tag != "storage" or kind not in _STORAGES or type(length) is not int or length < 0:
            raise FirError(f"has an unknown kind of storage: {identity!r:.200}")
        # The old format could nest one storage in another; torch stopped using it in 2018.
        if len(identity) > 5 and identity[5] is not None:
            raise FirError(f"has a view of a storage, which is not supported: {identity!r:.200}")
        storage = _Storage(kind, key, length)
        if self.storages.setdefault(key, storage) != storage:
            raise FirError(f"describes its storage {key} in two ways")
        return storage


def _read_zip(content: bytes) -> tuple[_Records, _Arrays]:
    """Returns {name: record of a tensor} and {storage key: flat array}."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise FirError("is a zip archive without the data.pkl of a weights file of torch")
        folder = pickles[0].split("/")[0]
        # Compressed, a small file could fill the memory; torch never compresses.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise FirError("has compressed entries, which torch does not write")
        order = f"{folder}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise FirError("was written on a big-endian machine, which is not supported")
        records = _state_dict(_Unpickler(io.BytesIO(archive.read(pickles[0]))).load())
        arrays = {}
        for storage in {record.storage for record in records.values()}:
            try:
                data = archive.read(f"{folder}/data/{storage.key}")
            except KeyError:
                raise FirError(f"lacks the storage {storage.key}") from None
            arrays[storage.key] = _array(data, 0, storage)
    return records, arrays


def _read_legacy(content: bytes) -> tuple[_Records, _Arrays]:
    """Likewise, for the format before torch 1.6: five pickles, then the storages' bytes."""
    stream = io.BytesIO(content)
    if _Unpickler(stream).load() != _LEGACY_MAGIC:
        raise FirError("is not a weights file of torch: it starts with another magic number")
    protocol = _Unpickler(stream).load()
    if protocol != _LEGACY_PROTOCOL:
        raise FirError(f"has format version {protocol!r:.50}, expected {_LEGACY_PROTOCOL}")
    if _Unpickler(stream).load().get("little_endian") is not True:
        raise FirError("was written on a big-endian machine, which is not supported")
    unpickler = _Unpickler(stream)
    records = _state_dict(unpickler.load())
    arrays = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[key]
        header = stream.read(8)
        length = struct.unpack("<q", header)[0] if len(header) == 8 else None
        if length != storage.length:
            raise FirError(
                f"is cut short or damaged: storage {key} has {length} elements, "
                f"expected {storage.length}"
            )
        arrays[key] = _array(content, stream.tell(), storage)
        stream.seek(arrays[key].nbytes, io.SEEK_CUR)
    for name, record in records.items():
        if record.storage.key not in arrays:
            raise FirError(f"lacks the storage of tensor {name}")
    return records, arrays


def _array(content: bytes, position: int, storage: _Storage) -> np.ndarray:
    """A flat array over the bytes of a storage, without a copy."""
    kind = np.dtype(_STORAGES[storage.kind])
    if position + storage.length * kind.itemsize > len(content):
        raise FirError(
            f"is cut short: storage {storage.key} needs {storage.length * kind.itemsize} bytes, "
            f"{max(len(content) - position, 0)} are there"
        )
    return np.frombuffer(content, kind, storage.length, position)


def _state_dict(value: Any) -> _Records:
    """The mapping of names to tensors in what was pickled."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict):
        raise FirError(f"must hold a mapping of names to tensors. Received: {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise FirError(
                "must hold a mapping of names to tensors. "
                f"Received: {name!r:.80} with a {type(tensor).__name__}"
            )
        if not isinstance(tensor.storage, _Storage):
            raise FirError(f"tensor {name} has no storage")
    return value


def _rebuild(name: str, tensor: _Tensor, flat: np.ndarray) -> np.ndarray:
    """The array of a tensor's record, checked to stay inside its storage."""
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    numbers = [*shape, *strides, offset]
    if any(type(number) is not int or number < 0 for number in numbers) or len(shape) != len(
        strides
    ):
        raise FirError(f"tensor {name} has offset {offset}, shape {shape}, strides {strides}")
    count = 1
    for side in shape:
        count *= side
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    # More elements than the storage has would be an expanded tensor: a few bytes claiming memory
    # without end.
    if count and (last >= len(flat) or count > len(flat)):
        raise FirError(
            f"tensor {name} (offset {offset}, shape {shape}, strides {strides}) does not fit its "
            f"storage of {len(flat)} elements"
        )
    if not count:
        return np.zeros(shape, flat.dtype)
    steps = [stride * flat.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
    return np.array(view, order="C")
