"""What a cheaper form of the network or of the gallery costs: cosine and recall@k."""

import logging

import numpy as np

from fir_tf import datasets
from fir_tf.datasets.catalogue import retrieval_sides
from fir_tf.errors import FirError
from fir_tf.evaluation.embed import embed
from fir_tf.evaluation.metrics import retrieval_metrics

log = logging.getLogger(__package__)

RECALLS = ("recall@1", "recall@5", "recall@10", "recall@20")


class TestSet:
    """The queries and the gallery that forms of a network are compared on.

    Args:
        config: Config of the run.
        data_dir: str, the data set's folder; the config's own if "".

    Raises:
        FirError: for data that cannot be loaded.
    """

    # pytest takes a class of this name for tests.
    __test__ = False

    def __init__(self, config, data_dir=""):
        catalogue = datasets.load(config.dataset, data_dir or config.data_dir)
        query, gallery = retrieval_sides(catalogue)
        self._config = config
        self._part = catalogue.rows(np.concatenate([query, gallery]).astype(np.int64))
        self._queries = len(query)
        self.size = (len(query), len(gallery))

    def embed(self, embedder, batch_size=64):
        """Returns float32 [queries + gallery, d]; zeros where an image cannot be decoded."""
        config = self._config
        return embed(embedder, self._part, config.image_size, config.resize, batch_size).embedding

    def compare(self, reference, embedding):
        """Compares two embeddings of this set.

        Args:
            reference: float32 [queries + gallery, d], see `embed`.
            embedding: likewise, of the cheaper form, queries and gallery both.

        Returns:
            dict: `cosine_mean`, `cosine_min` between the two forms of an image, and for each of
            RECALLS [the reference's, the other's]; the cosines are missing where no image could be
            read, the recalls where no query has an image of its item in the gallery.
        """
        lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(embedding, axis=1)
        good = lengths > 0
        cosine = (reference * embedding).sum(axis=1)[good] / lengths[good]
        before, after = self._recalls(reference), self._recalls(embedding)
        found = {"queries": self.size[0], "gallery": self.size[1]}
        if good.any():
            found |= {"cosine_mean": float(cosine.mean()), "cosine_min": float(cosine.min())}
        return found | {name: [before[name], after[name]] for name in before}

    def _recalls(self, embedding):
        items = self._part.item
        return recalls(
            embedding[: self._queries],
            embedding[self._queries :],
            items[: self._queries],
            items[self._queries :],
        )


def recalls(queries, gallery, query_items, gallery_items):
    """Returns {name: value} of RECALLS; embeddings float32 [n, d], items int [n].

    Empty where no query has an image of its item in the gallery.
    """
    result = retrieval_metrics(queries, gallery, query_items, gallery_items)
    return {name: result.values[name] for name in RECALLS if name in result.values}


def report(name, found):
    """Prints what a cheaper form costs.

    Args:
        name: str, the form.
        found: dict, what `TestSet.compare` returns.

    Returns:
        dict: `found` and the printed line as `text`.
    """
    changes = [
        f"{recall} {found[recall][0]:.3f} -> {found[recall][1]:.3f}"
        for recall in RECALLS
        if recall in found
    ] or ["recall not measured: no query has an image of its item in the gallery"]
    if "cosine_mean" in found:
        changes.insert(0, f"cosine {found['cosine_mean']:.5f} (lowest {found['cosine_min']:.5f})")
    text = (
        f"{name} against float32, {found['queries']} queries in a gallery of "
        f"{found['gallery']}: {', '.join(changes)}"
    )
    log.info(text)
    return {**found, "text": text}


def measured(config, data_dir, compare):
    """Returns what `compare(test set)` does, or why there is nothing to measure on.

    Args:
        config: Config of the run.
        data_dir: str, the data set's folder; the config's own if "".
        compare: callable of a TestSet that returns {form: {"text": str, ...}}.
    """
    try:
        test_set = TestSet(config, data_dir)
    except FirError as error:
        log.info(f"note: the loss of recall was not measured: {error}")
        return {"recall": {"text": "not measured: the run's data could not be read"}}
    if not all(test_set.size):
        log.info("note: the loss of recall was not measured: the data set has no queries")
        return {"recall": {"text": "not measured: the run's data has no queries"}}
    return compare(test_set)
