"""Embeddings as files for TensorBoard's projector."""

from pathlib import Path

import numpy as np

from fir_tf.datasets.catalogue import Catalogue
from fir_tf.files import replacing, write_text


def write_projector(
    folder: str | Path, catalogue: Catalogue, rows: np.ndarray, embedding: np.ndarray
) -> None:
    """Writes embeddings for TensorBoard's projector: `tensorboard --logdir=FOLDER`.

    Args:
        folder: str or Path.
        catalogue: Catalogue.
        rows: int array [n], rows of the catalogue.
        embedding: float32 [n, d].
    """
    folder = Path(folder)

    def clean(text: str) -> str:
        return " ".join(str(text).split()) or "-"

    with replacing(folder / "vectors.tsv") as temporary:
        np.savetxt(temporary, embedding, fmt="%.6g", delimiter="\t")
    lines = ["item\tcategory\tpath"]
    for row in rows:
        item, category = catalogue.item[row], catalogue.category[row]
        lines.append(
            f"{clean(catalogue.items[item] if item >= 0 else '')}\t"
            f"{clean(catalogue.categories[category] if category >= 0 else '')}\t"
            f"{clean(catalogue.path[row])}"
        )
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    write_text(
        folder / "projector_config.pbtxt",
        'embeddings {\n  tensor_name: "embedding"\n  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n}\n',
    )
