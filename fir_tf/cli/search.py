"""search.py: command and flags -> a function of fir_tf.search, see _FUNCTIONS."""

import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from fir_tf import messages
from fir_tf.cli.common import define_flags, load_library, read_flags, run_script
from fir_tf.errors import FirError
from fir_tf.search import early
from fir_tf.search.engines import addresses
from fir_tf.search_options import (
    CompareOptions,
    IndexOptions,
    MeasureOptions,
    MigrateOptions,
    QueryOptions,
    WatchOptions,
    WebOptions,
)
from fir_tf.shell import given_path, run_command

USAGE = """Visual search: index a catalogue's photos, ask with a photo.

  python search.py index   --images=photos --index=catalogue      embeds the photos
  python search.py query   photo.jpg --index=catalogue            finds the nearest items
  python search.py measure --index=faiss+hnsw:catalogue           recall and speed against exact
  python search.py compare --index=catalogue --model=runs/new     old and new model's answers
  python search.py migrate --index=catalogue --model=runs/new     another model, while asked
  python search.py web     --index=catalogue                      the same in a browser
  python search.py watch   --index=catalogue --log=access.jsonl   whether its questions change

python search.py COMMAND --help lists the flags.
"""

_HELP = {
    "index": """Embeds a catalogue's photos into an index; a second time only what has changed.

  python search.py index --model=runs/inshop --images=photos --index=catalogue

Photos that are listed no more are removed from the index; over a tenth of it with --remove only.
Those that cannot be read now, and folders that cannot be, are named, and what the index has of
them stays. In a folder the last folder above a photo is its item and those above it its category;
with one level of folders they are categories. A photo without a category gets the model's guess.
An interrupted run goes on when the command is given again.

Photos of a table may be at addresses, http(s)://, s3:// and gs://. They are fetched into a cache,
and servers are asked again only after a day. What cannot be had is listed in errors.csv in the
index's folder.

--dask embeds on many machines instead (pip install 'fir_tf[dask]'):

  python search.py index --images=/mnt/photos --model=/mnt/model --index=catalogue \\
      --dask=tcp://HOST:8786

Every worker must see photos and model at the same places and have fir_tf installed; this process
alone writes the index.""",
    "query": """Finds the items of an index that look most like a photo.

  python search.py query photo.jpg [more.jpg ...] --index=catalogue

Each photo, a file or an address (https://...), is a query of its own, or with --together all of
them are one. --json alone prints the results as JSON and nothing else, --sheet draws them into
query.png.""",
    "measure": """Compares an index's engine with exact search: recall@k, queries a second.

  python search.py measure --index=faiss+ivfpq:catalogue""",
    "compare": """Compares the answers of an index with those that another model would give.

  python search.py compare --index=catalogue --model=runs/new --queries=photos --page

Embeds the catalogue with the new model beside the old vectors, which go on answering; migrate
takes over what was embedded, and migrate --rollback removes it. Then it asks both: overlap@k, the
share of answers that both have; rank-biased overlap, the same with more weight on the first ranks;
recall@k of both where the queries' items are known, the difference with a 95 % interval; time and
size.""",
    "migrate": """Changes the model of an index while it is asked.

  python search.py migrate --index=catalogue --model=runs/new
  python search.py migrate --index=catalogue --rollback           the old model answers again
  python search.py migrate --index=catalogue --finish             removes the old vectors

Embeds the photos of the index with the new model beside the old vectors, as often as search.py
index changes something meanwhile, and checks what was written. Then all readers, search.py web
among them, have the new model's answers from their next question on. Interrupted, it goes on when
the command is given again; the old answers stay until the switch.""",
    "web": """Serves a page to search with a photo; needs pip install 'fir_tf[web]'.

  python search.py web --index=catalogue""",
    "watch": """Tells whether an index is asked today what it was asked when all was well.

  python search.py watch --index=catalogue --log=access.jsonl --sheet

Compares the photos in the log of search.py web --access_log=access.jsonl with the index's
reference: the scores of the first answers (population stability index), the embeddings (shift of
their mean), and the share of answers of too little a score. The reference is of photos of the
index itself; --learn takes a log in its place, such as that of a good week.""",
}
_OPTIONS = {
    "index": IndexOptions,
    "query": QueryOptions,
    "measure": MeasureOptions,
    "compare": CompareOptions,
    "migrate": MigrateOptions,
    "web": WebOptions,
    "watch": WatchOptions,
}
_FUNCTIONS = {
    "index": ("indexing", "build"),
    "query": ("query", "query"),
    "measure": ("accuracy", "measure_engine"),
    "compare": ("comparing", "compare"),
    "migrate": ("migrating", "migrate"),
    "web": ("web", "serve"),
    "watch": ("watching", "watch"),
}


def _check_values(argv: Sequence[str]) -> None:
    """Raises FirError where a value stands behind a flag that may stand alone, without its `=`."""
    flags_alone = ("--sheet", "-sheet", "--json", "-json")
    for flag, value in itertools.pairwise(itertools.takewhile(lambda part: part != "--", argv)):
        known = value.startswith("-") or os.path.exists(os.path.expanduser(value))
        if flag in flags_alone and not known:
            raise FirError(
                f"there is no photo {value}. Received: {flag} {value}. A file to write is given "
                f"with an equals sign: {flag}={value}"
            )


def _call(command: str, photos: Sequence[str] = ()) -> None:
    if command == "query":
        _check_values(sys.argv[2:])
    options: Any = read_flags(_OPTIONS[command])
    if "-" in (getattr(options, "json", ""), getattr(options, "access_log", "")):
        # Nothing but JSON is on stdout then.
        messages.show("stderr")
    photos = [given_path("photo", photo) for photo in photos]
    _check_early(command, options, photos)
    module, name = _FUNCTIONS[command]
    if command == "index" and options.dask.strip():
        module = "cluster"
    # An exported network answers without TensorFlow.
    library = load_library(f"fir_tf.search.{module}", tensorflow=command != "query")
    function = getattr(library, name)
    function(options, photos) if command == "query" else function(options)


def _check_early(command: str, options: Any, photos: Sequence[str]) -> None:
    """Tells the mistakes that need no TensorFlow."""
    if command == "query":
        early.check_photos(photos, options.allow_private)
    if command != "index":
        early.check_index(options.index)
    early.check_model(getattr(options, "model", ""))
    if command == "web":
        with early.listening(options.host, options.port):
            pass


def _print_usage(command: str) -> int:
    """Says how search.py is called; returns the exit status."""
    asked = command in ("--help", "-h", "-help", "--helpfull", "--helpshort")
    print(f"{USAGE}\n{addresses()}", file=sys.stdout if asked else sys.stderr)
    if command and not asked:
        print(f"\nerror: {command!r} is no command of search.py", file=sys.stderr)
    return 0 if asked else 1


def run() -> None:
    """Console entry point."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in _OPTIONS:
        sys.exit(run_command(functools.partial(_print_usage, command)))
    define_flags(dataclasses.fields(_OPTIONS[command]))
    # Photos and flags may stand in any order.
    flags.FLAGS.set_gnu_getopt(True)

    run_script(
        functools.partial(_call, command),
        _HELP[command],
        [sys.argv[0], *sys.argv[2:]],
        arguments=command == "query",
    )
