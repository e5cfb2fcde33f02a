"""The options of search.py, a class for each of its commands."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fir_tf import registry
from fir_tf.config import PHOTO_RULE, REMOVED_MAX
from fir_tf.errors import FirError
from fir_tf.options import (
    FetchOptions,
    Improvements,
    RefreshOptions,
    Views,
    at_least,
    check_share,
)
from fir_tf.settings import (
    COLUMNS_HELP,
    PLUGINS_HELP,
    check_parts,
    check_settings,
    check_within,
    option,
)

_INDEX_HELP = "Address of the index: a folder, or what python search.py lists."
_MODEL_HELP = (
    "Model: a run's folder or an exported SavedModel; the one the index was made with when not "
    "given."
)
_IMAGES_HELP = "The photos' folder; the one the index was made from when not given."
_PLUGINS_HELP = f"{PLUGINS_HELP} Those of the model's run are known."
_WHERE_HELP = (
    "Only what this allows, such as \"price < 50 and brand in ('A', 'B') and not sold_out = "
    'true"; columns are those of the feed or table, and path, item, category, domain.'
)
_EFFORT_HELP = "How far an approximate FAISS index searches: 2 looks at twice as much."


@dataclasses.dataclass(frozen=True)
class IndexOptions(RefreshOptions, Views):
    """What `search.py index` is told. Each field is a flag of the same name."""

    model: str = option(
        "",
        "Model: a run's folder or an exported SavedModel; the newest run when not given.",
        path=True,
    )
    images: str = option(
        "",
        "Folder of photos, <category>/<item>/<view>.jpg or any other depth, a table of them (CSV "
        "or Parquet: path, and any of item, category, domain) or a product feed (Google Merchant's "
        f"as text or XML, Product Search's CSV, JSON Lines). In a folder: {PHOTO_RULE}",
        path=True,
    )
    index: str = option("", _INDEX_HELP, path=True)
    dataset: str = option("", "Layout of --images where it is that of a benchmark.", part="dataset")
    columns: str = option("", COLUMNS_HELP)
    split: str = option(
        "", "Parts of a benchmark or table to index, such as gallery; all when not given."
    )
    remove: bool = option(
        False, "Remove what is not listed any more, however much of the index it is."
    )
    max_removed: float = option(
        REMOVED_MAX,
        "Largest share of the index that is removed without --remove; a larger one is refused. The "
        "same share of photos may be impossible to open or fetch before the command fails.",
    )
    reread: bool = option(
        False, "Read and fetch all photos, whatever is known of them from the last time."
    )
    errors: str = option(
        "",
        "File for the photos that cannot be had, CSV: row, photo, reason; errors.csv in the "
        "index's folder when not given.",
        path=True,
    )
    batch_size: int = option(64, "Images in a batch.")
    whitening: str = option(
        "", "PCA-whiten embeddings by this file, which evaluate.py --whiten wrote.", path=True
    )
    dask: str = option(
        "", "Embed on the workers of a Dask cluster; its scheduler's address: tcp://HOST:8786."
    )
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        check_parts(self)
        _required(self, "images")
        _required(self, "index")
        at_least(self, 1, "batch_size")
        self.check_fetching()
        check_share("max_removed", self.max_removed)


@dataclasses.dataclass(frozen=True)
class QueryOptions(FetchOptions, Improvements):
    """What `search.py query` is told. Each field is a flag of the same name."""

    index: str = option("", _INDEX_HELP, path=True)
    model: str = option("", _MODEL_HELP, path=True)
    images: str = option("", _IMAGES_HELP, path=True)
    k: int = option(10, "Results for each query.")
    group: bool = option(True, "One result for each item, its best view; otherwise every image.")
    together: bool = option(
        False, "The photos show one garment: one query, the mean of their embeddings."
    )
    box: str = option(
        "",
        "Where the garment is in the photo, left,top,width,height in pixels as it is seen upright; "
        "the whole photo when not given.",
    )
    category: str = option("", "Only these categories of the index, separated by commas.")
    domain: str = option("", "Only shop or only consumer photos.", ("", "shop", "consumer"))
    where: str = option("", _WHERE_HELP)
    min_confidence: float = option(
        0.0,
        "Leave out results that are less sure: 0.5 for those of a score at which half of the first "
        "answers are right. Needs a model that evaluate.py has learned this of.",
        within="[0, 1]",
    )
    sheet: str = option(
        "",
        "--sheet draws the results of the first queries into query.png, --sheet=FILE into a PNG, "
        "JPEG or WebP.",
        path=True,
        alone="query.png",
    )
    locator: str = option(
        "",
        "Ask with each garment that this finds in a photo, the surest first: category_map for the "
        "model's own map, saved_model:FOLDER or onnx:FILE for a detector.",
        path=True,
    )
    explain: bool = option(
        False,
        "Draw over the photos of the sheet what their places add to the score, and below them the "
        "query as each of them sees it.",
    )
    json: str = option(
        "",
        "--json prints the results as JSON instead of the table, --json=FILE writes them.",
        path=True,
        alone="-",
    )
    effort: float = option(1.0, _EFFORT_HELP)
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        super().__post_init__()
        _required(self, "index")
        at_least(self, 1, "k")
        self.check_fetching()
        check_share("min_confidence", self.min_confidence)
        for name in ("expand", "rerank"):
            if self.min_confidence and getattr(self, name):
                raise FirError(
                    f"`min_confidence` is known of plain scores. Received: --{name}, which makes "
                    "other ones"
                )
        if self.locator:
            check_locator(self.locator)
            for name in ("together", "box"):
                if getattr(self, name):
                    raise FirError(f"`locator` asks with each garment alone. Received: --{name}")
        if self.explain:
            self._check_explained()

    def _check_explained(self) -> None:
        if not self.sheet:
            raise FirError(
                "`explain` is drawn onto the sheet. Give --sheet or --sheet=FILE as well"
            )
        for name in ("together", "box", "locator", "expand", "rerank"):
            if getattr(self, name):
                raise FirError(
                    f"`explain` needs the score of a whole photo and another. Received: --{name}"
                )


@dataclasses.dataclass(frozen=True)
class NewModelOptions(FetchOptions, Views):
    """What is told of an index and the model that it is to have."""

    index: str = option("", _INDEX_HELP, path=True)
    model: str = option("", "The new model: a run's folder or an exported SavedModel.", path=True)
    images: str = option("", _IMAGES_HELP, path=True)
    queries: str = option(
        "",
        "Photos to compare the models' answers by: a folder, a table or feed (labels of items make "
        "recall known), or a log, the JSON of search.py query or a text file of a path a line; "
        "photos of the index, drawn at random, when not given.",
        path=True,
    )
    drawn: int = option(200, "How many photos of the index are drawn as queries.")
    k: int = option(10, "Answers of each query that are compared.")
    group: bool = option(True, "An answer is an item, by its best view; otherwise an image.")
    fail_below: str = option(
        "",
        "Least values, such as overlap=.5,rbo=.5,recall=.8 (recall is that of the new model): "
        "below one the exit status is 2, and the index is not switched.",
    )
    batch_size: int = option(64, "Images in a batch.")
    whitening: str = option(
        "", "PCA-whiten embeddings by this file, which evaluate.py --whiten wrote.", path=True
    )
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        _required(self, "index")
        at_least(self, 1, "drawn", "k", "batch_size")
        self.check_fetching()
        least_values(self.fail_below)


def least_values(text: str) -> dict[str, float]:
    """Reads --fail_below.

    Args:
        text: str, such as "overlap=.5,recall=.8".

    Returns:
        dict of float by `overlap`, `rbo` or `recall`.

    Raises:
        FirError: another name, or no number in [0, 1].
    """
    return _limits("fail_below", text, ("overlap", "rbo", "recall"), 1)


def largest_values(text: str) -> dict[str, float]:
    """Reads --fail_above.

    Args:
        text: str, such as "psi=.25,below=.3".

    Returns:
        dict of float by `psi`, `shift` or `below`.

    Raises:
        FirError: another name, or no number in [0, 100].
    """
    return _limits("fail_above", text, ("psi", "shift", "below"), 100)


def _limits(flag: str, text: str, names: Sequence[str], most: int) -> dict[str, float]:
    values = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1
        if name.strip() not in names or not 0 <= value <= most:
            raise FirError(
                f"`{flag}` must be {names[0]}=, {names[1]}= or {names[2]}= with a number in "
                f"[0, {most}], separated by commas. Received: {part!r}"
            )
        values[name.strip()] = value
    return values


@dataclasses.dataclass(frozen=True)
class CompareOptions(NewModelOptions):
    """What `search.py compare` is told. Each field is a flag of the same name."""

    changed: int = option(20, "Queries whose answers changed most, on the page and in the JSON.")
    page: str = option(
        "",
        "--page writes compare.html with those queries, old answers beside new ones, --page=FILE "
        "another file.",
        path=True,
        alone="compare.html",
    )
    json: str = option(
        "",
        "--json prints the numbers as JSON instead of the table, --json=FILE writes them.",
        path=True,
        alone="-",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _required(self, "model")
        at_least(self, 0, "changed")


@dataclasses.dataclass(frozen=True)
class MigrateOptions(NewModelOptions):
    """What `search.py migrate` is told. Each field is a flag of the same name."""

    max_removed: float = option(
        REMOVED_MAX,
        "Largest share of the index that may be lost because its photos cannot be read any more.",
    )
    rollback: bool = option(
        False,
        "After the switch: the old model answers again. Before it: what was built is removed.",
    )
    finish: bool = option(False, "Remove the old vectors: there is no way back then.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("max_removed", self.max_removed)
        if self.rollback and self.finish:
            raise FirError("give one of --rollback and --finish. Received: both")
        if not self.rollback and not self.finish:
            _required(self, "model")


@dataclasses.dataclass(frozen=True)
class WatchOptions:
    """What `search.py watch` is told. Each field is a flag of the same name."""

    index: str = option("", _INDEX_HELP, path=True)
    log: str = option("", "File that search.py web --access_log=FILE has written.", path=True)
    days: float = option(
        0.0, "Look at the last so many days of the log alone; 0 for all.", within="[0, 36500]"
    )
    precision: float = option(
        0.5,
        "Tell the share of photos whose first answer has a score at which fewer than this share "
        "of first answers are right.",
        within="[0, 1]",
    )
    learn: bool = option(
        False, "Take this log for what is usual from now on, in place of what the index has."
    )
    sheet: str = option(
        "",
        "--sheet draws the scores of both into drift.png, --sheet=FILE into a PNG, PDF or SVG.",
        path=True,
        alone="drift.png",
    )
    json: str = option(
        "",
        "--json prints the numbers as JSON instead of the table, --json=FILE writes them.",
        path=True,
        alone="-",
    )
    fail_above: str = option(
        "",
        "Largest values, such as psi=.25,shift=1,below=.3: above one the exit status is 2.",
    )
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        check_settings(self)
        _required(self, "index")
        _required(self, "log")
        largest_values(self.fail_above)


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """What `search.py measure` is told. Each field is a flag of the same name."""

    index: str = option("", _INDEX_HELP, path=True)
    k: int = option(50, "Results for each query.")
    queries: int = option(200, "Vectors of the index, drawn at random, that are asked for.")
    effort: float = option(1.0, _EFFORT_HELP)
    json: str = option(
        "",
        "--json prints the numbers as JSON instead of the table, --json=FILE writes them.",
        path=True,
        alone="-",
    )
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        _required(self, "index")
        at_least(self, 1, "k", "queries")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """How much the page's server does at a time, and what it says of it."""

    max_upload_mb: int = option(
        20, "Largest photo that is taken, in megabytes.", within="[1, 1000]"
    )
    max_batch: int = option(
        8,
        "Photos that are embedded at a time; those that wait meanwhile are the next batch.",
        within="[1, 1024]",
    )
    batch_wait_ms: float = option(
        0.0,
        "Milliseconds that a photo waits for others to be embedded with, even where the model has "
        "nothing to do.",
        within="[0, 10000]",
    )
    max_queue: int = option(
        64,
        "Requests that are worked on or wait; more are answered at once with status 503.",
        within="[1, 100000]",
    )
    max_per_client: int = option(
        0,
        "As many of them from one address; more are answered with status 429. 0 is no limit.",
        within="[0, 100000]",
    )
    stop_seconds: float = option(
        30.0,
        "After SIGTERM or Ctrl+C, seconds in which the requests under way must be finished.",
        within="[0, 3600]",
    )
    access_log: str = option(
        "",
        "File that gets a line of JSON for each request, without photos and without what was "
        "asked for but for 16 numbers of a photo's embedding, which search.py watch reads; - is "
        "the standard output.",
        path=True,
    )
    keep_queries: str = option(
        "",
        "Folder that gets a copy of each uploaded photo that can be read; without it none is kept.",
        path=True,
    )

    def check_service(self) -> None:
        """Raises FirError unless each field has a value that it may have."""
        for field in dataclasses.fields(ServiceOptions):
            if field.metadata["within"]:
                check_within(field.name, getattr(self, field.name), field.metadata["within"])


NO_LOCATOR = "none"
"""str, the `--locator` of a page that offers no garments."""


@dataclasses.dataclass(frozen=True)
class WebOptions(ServiceOptions, FetchOptions):
    """What `search.py web` is told. Each field is a flag of the same name."""

    index: str = option("", _INDEX_HELP, path=True)
    model: str = option("", _MODEL_HELP, path=True)
    images: str = option("", _IMAGES_HELP, path=True)
    host: str = option("127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in.")
    port: int = option(8000, "Port to listen at; 0 takes a free one.")
    effort: float = option(1.0, _EFFORT_HELP)
    locator: str = option(
        "",
        "Offer the garments that this finds in a photo, and begin with the surest: as for query, "
        "empty for the map of the index's model where it has one, none to find none.",
        path=True,
    )
    plugins: str = option("", _PLUGINS_HELP, path=True)

    def __post_init__(self) -> None:
        registry.load_plugins(self.plugins)
        _required(self, "index")
        self.check_fetching()
        self.check_service()
        if self.locator not in ("", NO_LOCATOR):
            check_locator(self.locator)
        if not 0 <= self.port <= 65535:
            raise FirError(f"`port` must be between 0 and 65535. Received: {self.port}")


def check_locator(text: str) -> None:
    """Raises FirError, listing the names, unless `--locator` names a part."""
    registry.check("locator", text.partition(":")[0])


def _required(options: Any, name: str) -> None:
    if not getattr(options, name).strip():
        raise FirError(f"`{name}` must be given: --{name}=...")
