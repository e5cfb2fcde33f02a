"""An index with its model, ready to be asked."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fir_tf.calibration import Calibration
from fir_tf.errors import FirError
from fir_tf.options import FetchOptions, Improvements
from fir_tf.search import encoder as encoders
from fir_tf.search.conditions import Condition
from fir_tf.search.engines import Engine, Hit, generations_of, open_engine
from fir_tf.search.engines.base import shown
from fir_tf.search.filling import records_of, write_arrays, write_photos
from fir_tf.search.following import Following
from fir_tf.search.generation import Generation, Model, open_generation


class Index:
    """An index opened with its model, ready to be asked.

    Args:
        address: str or Path, see `fir_tf.search.engines.addresses`.
        model: Model; empty for the one the index was made with.
        images: str or Path, the photos' folder; empty for the one it was made from.
        effort: float, see `open_engine`.

    When `search.py migrate` switches the index to another model, the next question is answered by
    that one, which is opened beside. A question that has begun ends as it began.

    Raises:
        FirError: there is no index, or `model` is another one than it was made with.

    Example:
        >>> index = Index.from_arrays(np.eye(3, dtype=np.float32), {"item": ["a", "b", "c"]})
        >>> [hit.record.item for hit in index.search(np.array([0.6, 0.8, 0.0]), k=2)]
        ['b', 'a']
        >>> index.close()
    """

    def __init__(
        self,
        address: str | Path,
        model: Model = "",
        images: str | Path = "",
        effort: float = 1.0,
    ) -> None:
        self._address: str | Path = address
        self._temporary: tempfile.TemporaryDirectory | None = None
        first = open_generation(open_engine(address, effort=effort), address, model, images)

        def open_other(name: str) -> Generation:
            engine = open_engine(address, effort=effort, generation=name)
            # A model that was given is that of the generation it was given for.
            return open_generation(engine, address, model if name == first.name else "", images)

        self._following = Following(first, generations_of(address), open_other)

    @classmethod
    def from_arrays(
        cls, vectors: ArrayLike, metadata: Mapping[str, Sequence[Any]] | None = None
    ) -> "Index":
        """Makes an index of embeddings, in a temporary folder until `save`.

        Args:
            vectors: float [n, d], taken as they are: L2-normalised for cosine similarity.
            metadata: columns of n values each, `path`, `item`, `category`, `domain` and any others
                of text, numbers, bools or lists of them; a dict or a pandas DataFrame. None and
                NaN are unknown. Rows without a path bear their number.

        Returns:
            Index, which is asked with vectors.

        Raises:
            FirError: vectors or columns that do not fit, or a path that stands twice.
        """
        try:
            array = np.asarray(vectors)
        except ValueError as error:
            raise FirError(f"`vectors` must be a float array [n, d]. Received: {error}") from error
        records = records_of(metadata, len(np.atleast_1d(array)))
        return cls._new(lambda engine: write_arrays(engine, array, records))

    @classmethod
    def from_model(
        cls,
        model: Model,
        photos: str | Path | Sequence[Any],
        metadata: Mapping[str, Sequence[Any]] | None = None,
        batch_size: int = 64,
        fetch: FetchOptions | None = None,
    ) -> "Index":
        """Makes an index of photos, in a temporary folder until `save`.

        Args:
            model: Model; what is not a folder has to be given again when a saved index is opened.
            photos: a folder, a table or a feed, see `fir_tf.search.listing.read_catalogue`, or a
                list of photos, each a path, an address (`https://...`), an image file's bytes, a
                PIL image or an array uint8 [height, width, 3].
            metadata: see `from_arrays`, for a list of photos.
            batch_size: int, photos embedded at a time.
            fetch: FetchOptions, how photos at addresses are fetched; as `search.py index` does
                when not given.

        Returns:
            Index, which is asked with photos or vectors. Photos that cannot be read are left out,
            and listed in a warning.

        Raises:
            FirError: no photo can be read, or columns or options that do not fit.
        """
        encoder = encoders.Encoder(model)
        return cls._new(
            lambda engine: write_photos(
                engine, encoder, photos, metadata, batch_size, fetch or FetchOptions()
            ),
            encoder,
        )

    @classmethod
    def _new(cls, fill: Any, encoder: encoders.Encoder | None = None) -> "Index":
        temporary = tempfile.TemporaryDirectory(prefix="fir_tf_index_")
        address = Path(temporary.name) / "index"
        engine = open_engine(address, create=True)
        try:
            fill(engine)
            engine.flush()
        except BaseException:
            engine.close()
            temporary.cleanup()
            raise
        index = cls.__new__(cls)
        index._address, index._temporary = address, temporary
        root = Path(engine.info()["root"])
        index._following = Following(Generation(engine, address, root, encoder))
        return index

    @contextlib.contextmanager
    def held(self) -> Iterator[Generation]:
        """Yields the generation that is current now, open to the end of the block.

        What belongs together is asked of one generation: an embedding, and the search for it.

        Example:
            >>> index = Index.from_arrays(np.eye(2, dtype=np.float32))
            >>> with index.held() as generation:
            ...     len(generation.engine), len(generation.search(np.eye(2)))
            (2, 2)
            >>> index.close()
        """
        with self._following.held() as generation:
            yield generation

    def prepare_next(self, prepare: Callable[[Generation], None]) -> None:
        """Has each generation that the index is switched to prepared before it answers.

        Args:
            prepare: callable of a Generation, opened, such as one that asks it once.
        """
        self._following.prepare = prepare

    @property
    def engine(self) -> Engine:
        """The engine of the generation that answered last, see `held`."""
        return self._following.last.engine

    @property
    def root(self) -> Path:
        """The photos' folder."""
        return self._following.last.root

    @property
    def calibration(self) -> Calibration | None:
        """What the scores of the generation that answered last are worth; None where unknown."""
        return self._following.last.calibration

    @property
    def encoder(self) -> encoders.Encoder:
        """The model of the generation that answered last, see `held`.

        Raises:
            FirError: the index was made of vectors, or of a model that was no folder.
        """
        return self._following.last.encoder

    def save(self, address: str | Path) -> None:
        """Copies the index to a new address, such as a folder.

        A copy that was interrupted is no index: it is refused when it is opened.

        Raises:
            FirError: the address is unknown, or has an index already.
        """
        with self.held() as generation, open_engine(address, create=True) as target:
            info = generation.engine.info()
            if target.info():
                raise FirError(
                    f"`address` must be a new one. Received: {shown(address)}, which holds an "
                    "index already. Delete it first, or save to another"
                )
            target.set_info({"dimension": info["dimension"]})
            for records, vectors in generation.engine.scan(vectors=True):
                if vectors is not None:
                    target.upsert(records, vectors)
            target.flush()
            target.set_info(info)

    def search(
        self,
        queries: Any,
        k: int = 10,
        group: bool = True,
        where: Condition | str | None = None,
        improvements: Improvements | None = None,
        fetch: FetchOptions | None = None,
    ) -> list[Any]:
        """Finds the nearest items or images.

        Args:
            queries: vectors float [q, d] or one [d], unit length; or a photo or a list of photos,
                each a path, an address (`https://...`), an image file's bytes, a PIL image or an
                array uint8 [height, width, 3].
            k: int, results for each query.
            group: bool, one result for each item, its best view. An image of no item stands for
                itself.
            where: what may be found, a Condition or text such as "price < 50 and item != 'a'", see
                `fir_tf.search.where`.
            improvements: Improvements; none when not given.
            fetch: FetchOptions, how photos at addresses are fetched; as `search.py index` does
                when not given.

        Returns:
            list of at most k Hits for one vector or photo, otherwise a list of such lists. Each
            has its `confidence` where the index knows what its scores are worth; scores of
            `improvements` are other ones and have none.

        Raises:
            FirError: vectors of another length, a photo that cannot be read, or a condition on
                columns that the index does not have.
        """
        with self.held() as generation:
            return generation.search(queries, k, group, where, improvements, fetch)

    def confident(self, hits: Sequence[Hit], least: float) -> list[Hit]:
        """Returns the Hits whose confidence is at least `least`, in their order; 0 leaves all.

        Raises:
            FirError: the index does not know what its scores are worth.
        """
        with self.held() as generation:
            return generation.confident(hits, least)

    def close(self) -> None:
        """Closes the engine; what was not saved is gone."""
        self._following.close()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
