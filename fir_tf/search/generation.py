"""One generation of an index with its model: asked as long as it is held, whatever comes after."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fir_tf.errors import FirError
from fir_tf.evaluation.rerank import expanded, reranked
from fir_tf.options import FetchOptions, Improvements
from fir_tf.search import encoder as encoders
from fir_tf.search.calibrated import calibration_of, check_calibrated, with_confidence
from fir_tf.search.columns import kinds_of
from fir_tf.search.conditions import Condition, check_columns, combined
from fir_tf.search.engines import Engine, Hit
from fir_tf.search.engines.base import best_of_items, shown
from fir_tf.search.filling import at_hand
from fir_tf.search.photo_files import PhotoFiles
from fir_tf.search.photos import contents_of, is_photo
from fir_tf.search.where import parse

if TYPE_CHECKING:
    import keras

    from fir_tf.search.in_hand import ImageFunction

Model: TypeAlias = "str | Path | keras.Model | ImageFunction"
"""A run's or an export's folder, or a model in hand: what `fir_tf.search.encoder.Encoder` takes."""


class Generation:
    """An engine with the model that its vectors are of.

    Args:
        engine: Engine.
        address: str or Path, the index's, for messages.
        root: Path, the photos' folder.
        encoder: Encoder, or None for an index that does not say where its model is.

    Attributes:
        engine: Engine.
        root: Path.
        calibration: Calibration, what its scores are worth; None where that is not known.
        model: str, the name of the fingerprint of the model that its vectors are of; empty for
            vectors without one.
        name: str, see `fir_tf.search.engines.generations`.

    Raises:
        FirError: what the engine keeps of its scores is damaged.
    """

    def __init__(
        self, engine: Engine, address: str | Path, root: Path, encoder: encoders.Encoder | None
    ) -> None:
        self.engine, self.root = engine, root
        self._address, self._encoder = address, encoder
        info = engine.info()
        self.calibration = calibration_of(info, shown(address))
        self.model = (info.get("model") or {}).get("name", "")

    @property
    def name(self) -> str:
        """The name among the index's generations."""
        return self.engine.generation

    @property
    def encoder(self) -> encoders.Encoder:
        """The model that photos are embedded with.

        Raises:
            FirError: the index was made of vectors, or of a model that was no folder.
        """
        if self._encoder is None:
            raise FirError(
                f"the index {shown(self._address)} does not say where its model is. Give the "
                "model, or ask it with vectors"
            )
        return self._encoder

    def search(
        self,
        queries: Any,
        k: int = 10,
        group: bool = True,
        where: Condition | str | None = None,
        improvements: Improvements | None = None,
        fetch: FetchOptions | None = None,
    ) -> list[Any]:
        """Finds the nearest items or images, see `fir_tf.search.index.Index.search`."""
        condition = combined(parse(where) if isinstance(where, str) else where)
        if condition is not None:
            check_columns(condition, kinds_of(self.engine.info()))
        vectors, single = self._vectors(queries, fetch or FetchOptions())
        how = improvements or Improvements()
        found = self._search(vectors, k, group, condition, how)
        if self.calibration and not (how.expand or how.rerank):
            found = with_confidence(found, self.calibration)
        return found[0] if single else found

    def confident(self, hits: Sequence[Hit], least: float) -> list[Hit]:
        """Returns the Hits whose confidence is at least `least`, in their order; 0 leaves all.

        Raises:
            FirError: the index does not know what its scores are worth.
        """
        if not least:
            return list(hits)
        check_calibrated(self.calibration, shown(self._address))
        return [hit for hit in hits if hit.confidence is not None and hit.confidence >= least]

    def _vectors(self, queries: Any, fetch: FetchOptions) -> tuple[np.ndarray, bool]:
        """Returns (float32 [q, d], whether one query was asked)."""
        if is_photo(queries):
            return self._embedded([queries], fetch), True
        if isinstance(queries, list | tuple) and not queries:
            return np.empty([0, self.engine.info()["dimension"]], np.float32), False
        if isinstance(queries, list | tuple) and is_photo(queries[0]):
            return self._embedded(queries, fetch), False
        try:
            array = np.asarray(queries)
        except ValueError:
            array = np.empty(0, object)
        if array.dtype.kind != "f" or array.ndim not in (1, 2):
            raise FirError(
                "`queries` must be vectors, float [q, d] or [d], or photos. Received: "
                f"{type(queries).__name__} of {array.dtype} {array.shape}"
            )
        return np.atleast_2d(array).astype(np.float32), array.ndim == 1

    def _embedded(self, photos: Sequence[Any], fetch: FetchOptions) -> np.ndarray:
        fetch.check_fetching()
        bad = dict[str, str]()
        with PhotoFiles(self.root, fetch) as files, at_hand(files, photos, bad) as here:
            if bad:
                address, reason = next(iter(bad.items()))
                raise FirError(f"{address} is no photo that can be read: {reason}")
            contents = [contents_of(photo) for photo in here]
        encoded = self.encoder.encode(contents)
        broken = np.flatnonzero(~encoded.valid)
        if len(broken):
            raise FirError(
                f"{len(broken)} of {len(photos)} photos cannot be decoded, the first is number "
                f"{broken[0]}. JPEG, PNG, GIF and BMP are read"
            )
        return encoded.embedding

    def _search(
        self,
        vectors: np.ndarray,
        k: int,
        group: bool,
        where: Condition | None,
        improvements: Improvements,
    ) -> list[list[Hit]]:
        def find(queries: np.ndarray, count: int) -> list[list[Hit]]:
            return self.engine.search(queries, count, where)

        def vectors_of(hits: list[Hit]) -> np.ndarray:
            stored = self.engine.fetch([hit.record.path for hit in hits])
            return np.array([vector for _, vector in stored]).reshape(-1, vectors.shape[1])

        if improvements.expand:
            near = map(vectors_of, find(vectors, improvements.expand))
            vectors = expanded(vectors, near, improvements.expand_alpha)
        if not improvements.rerank:
            nearest = self.engine.search_items if group else self.engine.search
            return nearest(vectors, k, where)

        def find_reranked(count: int) -> list[list[Hit]]:
            found = find(vectors, max(count, improvements.rerank))
            return [
                reranked(vector, hits, vectors_of, improvements.rerank)
                for vector, hits in zip(vectors, found, strict=True)
            ]

        if group:
            return best_of_items(find_reranked, k, len(self.engine))
        return [hits[:k] for hits in find_reranked(k)]

    def close(self) -> None:
        """Closes the engine."""
        self.engine.close()


def open_generation(
    engine: Engine, address: str | Path, model: Model = "", images: str | Path = ""
) -> Generation:
    """Makes an open engine ready to be asked, with its model; closes it where that fails.

    Args:
        engine: Engine.
        address: str or Path, the index's, for messages.
        model: Model; empty for the one the index was made with.
        images: str or Path, the photos' folder; empty for the one it was made from.

    Raises:
        FirError: the index is empty or unfinished, or `model` is another one than it was made
            with.
    """
    try:
        info = engine.info()
        if "root" not in info:
            what = "was not written to its end" if info else "is empty"
            raise FirError(f"the index {shown(address)} {what}. Fill it with search.py index")
        encoder = encoder_of(info, model, address)
        return Generation(engine, address, Path(images or info["root"]), encoder)
    except BaseException:
        engine.close()
        raise


def encoder_of(
    info: Mapping[str, Any], model: Model, address: str | Path
) -> encoders.Encoder | None:
    """Opens the model an index was made with, or the one that is given in its place.

    Args:
        info: dict, the engine's.
        model: Model; empty for the one it was made with.
        address: str or Path, the index's, for messages.

    Returns:
        Encoder; None where `info` names no model that can be opened, and none is given.

    Raises:
        FirError: it is no longer there, or another one than the index was made with.
    """
    made_with, how = info["model"], dict(info["how"])
    stored = made_with["model"] if made_with else ""
    if not isinstance(model, str | Path) or (not model and not stored):
        encoder = encoders.Encoder(model) if model else None
    elif not model and not Path(stored).exists():
        raise FirError(
            f"the index {shown(address)} was made with the model {stored}, which is no longer "
            "there. Give its folder as --model"
        )
    else:
        how["whitening"] = _whitening(how.get("whitening", ""), Path(model or stored), address)
        encoder = encoders.Encoder(model or stored, **how)
    if encoder and made_with:
        encoder.check(made_with, f"the index {shown(address)}")
    return encoder


def _whitening(path: str, model: Path, address: str | Path) -> str:
    """Returns where the whitening's file is: where it was, or in the model's folder."""
    beside = model / Path(path).name
    if not path or Path(path).is_file():
        return path
    if beside.is_file():
        return str(beside)
    raise FirError(
        f"the index {shown(address)} was made with --whitening={path}, which is no longer "
        f"there. Put the file back, or into the model's folder as {beside}"
    )
