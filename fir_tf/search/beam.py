"""A catalogue embedded by many machines: the same index, filled by an Apache Beam pipeline.

  listing -> a worker reads a photo and compares it -> the model (RunInference) -> the index

A record's key is the photo's path, and its checksum says what it was made from. So a bundle that a
runner tries again replaces its records by the same ones, and what is in the index is passed over.
"""

import contextlib
import dataclasses
import io
import json
import os
import shlex
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fir_tf import registry
from fir_tf.errors import FirError
from fir_tf.files import checksum, open_file
from fir_tf.search.encoder import Encoder
from fir_tf.search.engines import Engine, Record, has_one_writer, open_engine
from fir_tf.search.engines.base import shown
from fir_tf.search.failures import UNDECODED, UNOPENED, Failure
from fir_tf.search.indexing import PIECE, changed, concluded, held, prepared
from fir_tf.search_options import IndexOptions

try:
    import apache_beam
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        StandardOptions,
        WorkerOptions,
    )
    from apache_beam.pvalue import TaggedOutput
    from apache_beam.runners.runner import PipelineState
except ImportError as missing:
    raise FirError("--beam needs pip install 'fir_tf[beam]'") from missing

_COUNTS = ("embedded", "kept", "relabelled")
# Seconds between two looks at how far the index has grown.
_LOOK = 2.0
# Behind the name of the list of photos: what workers say they could not read.
_LOST = ".lost"


def build(options: IndexOptions) -> dict[str, Any]:
    """Embeds a catalogue into an index as `fir_tf.search.indexing.build` does, on Beam's workers.

    Every worker must see the photos, the model and the index at the paths that are given here.

    Args:
        options: IndexOptions, `beam` with the options of Beam's runner.

    Returns:
        dict: see `fir_tf.search.indexing.build`. `embedded`, `kept` and `relabelled` are the
        runner's metrics: bundles that were tried again may be counted again.

    Raises:
        FirError: no photos, no model, an index of another model or one that only one process
            can write, photos at addresses, wrong options, or a pipeline that failed.
    """
    if has_one_writer(options.index):
        raise FirError(
            "`index` must be one that several processes can write: a folder on one machine, "
            f"milvus+http://HOST:19530/NAME on a cluster. Received: {shown(options.index)}"
        )
    settings = pipeline_options(options.beam)
    with prepared(options) as (engine, encoder, listing, before):
        if listing.addresses:
            raise FirError(
                "`beam` reads photos from files that all workers see. Received: "
                f"{options.images}, where {listing.addresses:,} of {len(listing.records):,} photos "
                "are at addresses. Index them without --beam"
            )
        info = engine.info()
        handler = EncoderHandler(
            info["model"],
            info["how"],
            options.batch_size,
            guess=any(not record.category for record in listing.records),
        )
        start = time.perf_counter()
        count = len(listing.records)
        with _listed(listing.records, settings) as path, _progress(engine, count):
            pipeline = _pipeline(path, options.index, info["root"], handler, settings)
            counts = _run(pipeline, options.index)
            lost = _read_lost(path)
        seconds = time.perf_counter() - start
        removed = listing.gone(before)
        engine.delete(removed)
        engine.flush()
        unreadable = [record.path for record in listing.records if record.path in lost]
        counts.update(
            removed=len(removed),
            unreadable=unreadable,
            failures=[Failure(name, UNOPENED if lost[name] else UNDECODED) for name in unreadable],
            unopened=sum(lost[name] for name in unreadable),
            held=held(listing, before, unreadable),
            seconds=seconds,
            images_per_second=counts["embedded"] / seconds,
            images=len(engine),
        )
    return concluded(counts, listing, options)


def pipeline_options(text: str) -> PipelineOptions:
    """Reads the options of Beam and of its runner.

    Args:
        text: str, as on a command line: "--runner=FlinkRunner --flink_master=host:8081".

    Returns:
        apache_beam.options.pipeline_options.PipelineOptions.

    Raises:
        FirError: they are none of Beam's. Those that Beam does not know are left to the runner if
            that is not the direct one.
    """
    expected = "`beam` must be options of Apache Beam, each --name=value as --runner=DirectRunner"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise FirError(f"{expected}. Received: {text!r} ({error})") from error
    stray = [word for word in words if not word.startswith("--")]
    options, said = PipelineOptions(words), io.StringIO()
    try:
        # A wrong value is argparse's to find, which prints a page and exits.
        with contextlib.redirect_stderr(said):
            everything = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise FirError(f"{expected}. Received: {text!r} ({reason})") from error
    runner = options.view_as(StandardOptions).runner or "DirectRunner"
    if runner == "DirectRunner":
        kinds = [cls(["--"]) for cls in PipelineOptions.__subclasses__()]
        known = {name for kind in kinds for name in kind.get_all_options(current_only=True)}
        stray += [f"--{name}" for name in everything if name not in known]
    if stray:
        raise FirError(f"{expected}. Received: {', '.join(stray)}")
    try:
        apache_beam.runners.create_runner(runner)
    # Unknown, or in need of packages of its own.
    except Exception as error:
        raise FirError(f"{expected}. Received: --runner={runner} ({error})") from error
    workers = options.view_as(WorkerOptions)
    # Otherwise every worker tells of every connection and of what Beam has not installed.
    workers.default_sdk_harness_log_level = workers.default_sdk_harness_log_level or "ERROR"
    return options


@contextlib.contextmanager
def _listed(records: Sequence[Record], settings: PipelineOptions) -> Iterator[str]:
    """Writes the records, a JSON line each, where the workers read them; removes the file again.

    A pipeline's own description has a limit of some megabytes.
    """
    folder = settings.view_as(GoogleCloudOptions).temp_location or tempfile.gettempdir()
    if set("*?[") & set(folder):
        raise FirError(
            "--temp_location of `beam` must be a folder without * ? [ in its name, which Beam "
            f"takes for a pattern. Received: {folder}"
        )
    try:
        path = FileSystems.join(folder, f"fir_tf-{uuid.uuid4().hex}.jsonl")
        with FileSystems.create(path) as file:
            for record in records:
                file.write(json.dumps(dataclasses.astuple(record)).encode() + b"\n")
    # Each file system has its own errors.
    except Exception as error:
        raise FirError(
            f"--temp_location of `beam` must be a folder that can be written. Received: {folder} "
            f"({error})"
        ) from error
    try:
        yield path
    finally:
        FileSystems.delete([path, *_lost_files(path)])


def _lost_files(path: str) -> list[str]:
    """Returns the files that workers wrote beside the list of photos: those that cannot be read."""
    (match,) = FileSystems.match([f"{path}{_LOST}*"])
    return [found.path for found in match.metadata_list]


def _read_lost(path: str) -> dict[str, bool]:
    """Returns {path of a photo that cannot be read: whether it could not even be opened}."""
    lost: dict[str, bool] = {}
    for name in _lost_files(path):
        with FileSystems.open(name) as file:
            lost.update(json.loads(line) for line in file.read().splitlines())
    return lost


@contextlib.contextmanager
def _progress(engine: Engine, count: int) -> Iterator[None]:
    """Shows how many images are in the index while a pipeline fills it."""
    done = threading.Event()

    def watch(bar: tqdm) -> None:
        while not done.wait(_LOOK):
            bar.update(len(engine) - bar.n)

    with tqdm(total=count, desc="in the index", unit="image", disable=None, leave=False) as bar:
        watching = threading.Thread(target=watch, args=(bar,), daemon=True)
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()


def _pipeline(
    path: str, address: str, root: str, handler: "EncoderHandler", settings: PipelineOptions
) -> apache_beam.Pipeline:
    """Returns the pipeline from the list of photos to the index."""
    pipeline = apache_beam.Pipeline(options=settings)
    size = handler.batch_size
    compared = (
        pipeline
        | "list" >> apache_beam.io.ReadFromText(path)
        | "record" >> apache_beam.Map(_parse)
        # Over all workers, however few pieces the file was read in.
        | "spread" >> apache_beam.Reshuffle()
        | "batch" >> apache_beam.BatchElements(size, size)
        | "compare" >> apache_beam.ParDo(Compare(address, root)).with_outputs(_LOST, main="good")
    )
    undecoded = (
        compared["good"]
        | "embed" >> RunInference(KeyedModelHandler(handler))
        | "piece" >> apache_beam.BatchElements(PIECE, PIECE)
        | "store" >> apache_beam.ParDo(Store(address))
    )
    (
        (compared[_LOST], undecoded)
        | "lost" >> apache_beam.Flatten()
        | "as text" >> apache_beam.Map(json.dumps)
        | "write" >> apache_beam.io.WriteToText(f"{path}{_LOST}")
    )
    return pipeline


def _run(pipeline: apache_beam.Pipeline, address: str) -> dict[str, Any]:
    """Runs a pipeline to its end; returns its counts."""
    again = f"What the index {address} holds stays; the same command goes on from there"
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
    # Every runner has its own errors, those of the workers among them as text.
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        reason = next((line for line in lines if FirError.__name__ in line), lines[-1])
        raise FirError(f"the pipeline failed: {reason.strip()}\n{again}") from error
    if state not in (None, PipelineState.DONE):
        raise FirError(f"the pipeline must end as DONE. Received: {state}. {again}")
    counts: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
    for counter in result.metrics().query(MetricsFilter().with_namespace(__name__))["counters"]:
        if counter.key.metric.name in counts:
            counts[counter.key.metric.name] += counter.result
    return counts


def _parse(line: str) -> Record:
    return Record(*json.loads(line))


class EncoderHandler(ModelHandler[bytes, tuple[np.ndarray, str, bool], Encoder]):
    """An Encoder for Beam's RunInference: a file's contents -> (embedding, category, valid).

    Args:
        fingerprint: dict of the index, see `Encoder.fingerprint`: the model's place, and what it
            must give there.
        how: dict, `Encoder`'s other arguments.
        batch_size: int, images the model sees at a time.
        guess: bool, whether categories are wanted.
    """

    def __init__(
        self, fingerprint: dict[str, Any], how: dict[str, Any], batch_size: int, guess: bool
    ) -> None:
        super().__init__()
        self.fingerprint, self.how = fingerprint, how
        self.batch_size, self.guess = batch_size, guess
        self.plugins = registry.loaded()

    def load_model(self) -> Encoder:
        """See `ModelHandler`. A worker with another model there fails before it stores a vector."""
        registry.load_plugins(self.plugins)
        encoder = Encoder(self.fingerprint["model"], **self.how)
        encoder.check(self.fingerprint, "the index")
        return encoder

    def run_inference(
        self, batch: Sequence[bytes], model: Encoder, inference_args: dict | None = None
    ) -> Iterable[tuple[np.ndarray, str, bool]]:
        """See `ModelHandler`."""
        encoded = model.encode(batch, self.guess)
        return zip(encoded.embedding, encoded.category, encoded.valid.tolist(), strict=True)

    def batch_elements_kwargs(self) -> dict[str, int]:
        """See `ModelHandler`."""
        return {"min_batch_size": self.batch_size, "max_batch_size": self.batch_size}

    def get_num_bytes(self, batch: Sequence[bytes]) -> int:
        """See `ModelHandler`."""
        return sum(len(contents) for contents in batch)


class _AtIndex(apache_beam.DoFn):
    """Work at an index that each worker opens for itself."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.plugins = registry.loaded()

    def setup(self) -> None:
        registry.load_plugins(self.plugins)
        self._engine = open_engine(self.address)
        self._counters = {name: Metrics.counter(__name__, name) for name in _COUNTS}

    def teardown(self) -> None:
        self._engine.close()


class Compare(_AtIndex):
    """Records -> (Record with its checksum, file's contents) of the photos to embed.

    Labels that have changed are stored at once. A photo that cannot be opened goes to the output
    for those, (path, True); what the index has of it stays.

    Args:
        address: str, the index's.
        root: str, the photos' folder.
    """

    def __init__(self, address: str, root: str) -> None:
        super().__init__(address)
        self.root = root

    def setup(self) -> None:
        """See `apache_beam.DoFn`."""
        # Otherwise a worker without the folder would take every photo for deleted.
        if not os.path.isdir(self.root):
            raise FirError(
                f"the photos' folder must be there on every worker. Received: {self.root}"
            )
        super().setup()

    def process(self, batch: list[Record]) -> Iterator[Any]:
        """See `apache_beam.DoFn`."""
        stored = self._engine.fetch([record.path for record in batch])
        known = {record.path: record for record, _ in stored}
        vectors = {record.path: vector for record, vector in stored}
        relabelled = []
        for listed in batch:
            try:
                with open_file(Path(self.root, listed.path)) as file:
                    contents = file.read()
            except (OSError, ValueError):
                yield TaggedOutput(_LOST, (listed.path, True))
                continue
            record = dataclasses.replace(listed, checksum=checksum(io.BytesIO(contents)))
            new = changed(record, known.get(record.path))
            if new is record:
                yield record, contents
            elif new:
                relabelled.append(new)
            else:
                self._counters["kept"].inc()
        if relabelled:
            self._engine.upsert(
                relabelled, np.stack([vectors[record.path] for record in relabelled])
            )
            self._counters["relabelled"].inc(len(relabelled))


class Store(_AtIndex):
    """(Record, (embedding, category, valid)) in pieces -> the index; (path, False) of the rest."""

    def process(
        self, batch: list[tuple[Record, tuple[np.ndarray, str, bool]]]
    ) -> Iterator[tuple[str, bool]]:
        """See `apache_beam.DoFn`."""
        records, vectors = [], []
        for record, (vector, category, valid) in batch:
            if valid:
                records.append(dataclasses.replace(record, category=record.category or category))
                vectors.append(vector)
            else:
                yield record.path, False
        if records:
            self._engine.upsert(records, np.stack(vectors))
            self._counters["embedded"].inc(len(records))
