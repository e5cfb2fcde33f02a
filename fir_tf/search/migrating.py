"""Another model for an index that is asked meanwhile: filled beside, checked, switched in one step.

For the last look at what is new and the switch, `index` runs are held off.
"""

import contextlib
import logging
import time
from collections.abc import Sequence

import numpy as np

from fir_tf.datasets.walk import listed
from fir_tf.errors import FirError
from fir_tf.search import encoder as encoders
from fir_tf.search.coming import Filling, clear_away, fits, migrating, open_coming, records_by_path
from fir_tf.search.comparing import check_least, compare_generations, told
from fir_tf.search.cropped import boxes_of, unread
from fir_tf.search.engines import Generations
from fir_tf.search.engines.base import shown
from fir_tf.search.indexing import embedding_options
from fir_tf.search.photo_files import PhotoFiles, Seen
from fir_tf.search_options import MigrateOptions

log = logging.getLogger(__package__)

# Photos whose vectors are made a second time and compared.
_CHECKED = 32
# Seconds until who is asked often has seen what changed, and that it has to open a model.
_SEEN = 1.0
_OPENING = 120.0
_WAYS = "--rollback goes back to the old one, --finish removes its vectors"


def migrate(options: MigrateOptions) -> None:
    """Changes the model of an index, or goes back to the one before, or drops that one.

    Args:
        options: MigrateOptions.

    Raises:
        FirError: there is no index, it or its engine cannot be migrated, another migration is
            under way, or what was written is not what it should be. Whatever answered before
            answers still.
    """
    with migrating(options.index) as generations:
        if options.rollback:
            _roll_back(generations, options.index)
        elif options.finish:
            _finish(generations, options.index)
        else:
            _migrate(generations, options)


def _roll_back(generations: Generations, address: str) -> None:
    state = generations.state()
    if state.previous is not None:
        _announce(generations, state.previous)
        # Nothing is checked meanwhile, so those who are asked have to be given the time to see it.
        time.sleep(_SEEN)
        _wait_for_readers(generations)
        generations.change(
            current=state.previous, previous=None, coming=state.current, opening=None
        )
        log.info(
            f"{shown(address)}: the old model answers again. It does not know what search.py index "
            "has changed since the switch: index once more with it. The new vectors are kept: "
            "migrate goes on with them, a second --rollback removes them"
        )
    elif state.coming is not None:
        generations.change(coming=None, opening=None, leaving=state.coming)
        clear_away(generations)
        log.info(f"{shown(address)}: removed what was embedded with the new model")
    else:
        raise FirError(
            f"`rollback` needs a migration to go back from. Received: {shown(address)}, which has "
            "the vectors of one model"
        )


def _finish(generations: Generations, address: str) -> None:
    state = generations.state()
    if state.previous is None:
        log.info(f"{shown(address)}: there are no old vectors to remove")
        return
    generations.change(previous=None, opening=None, leaving=state.previous)
    clear_away(generations)
    log.info(f"{shown(address)}: removed the old vectors")


def _migrate(generations: Generations, options: MigrateOptions) -> None:
    encoder = encoders.Encoder(options.model, **embedding_options(options))
    with contextlib.ExitStack() as opened:
        before = opened.enter_context(generations.open())
        if fits(encoder, before.info(), options.index):
            log.info(f"{shown(options.index)} is of this model already. {_WAYS}")
            return
        after = opened.enter_context(open_coming(generations, encoder, options))
        new = Filling(before, after, encoder, options)
        new.fill()
        _announce(generations, after.generation)
        _verify(new, options.max_removed)
        values, _ = compare_generations((before, after), encoder, options)
        log.info(told(values))
        check_least(values, options.fail_below)
        _wait_for_readers(generations)
        with generations.holding("writing", alone=True):
            new.fill()
            _check_counts(new, options.max_removed)
            generations.change(
                current=after.generation, previous=before.generation, coming=None, opening=None
            )
    log.info(f"{shown(options.index)}: the new model answers now. {_WAYS}")


def _announce(generations: Generations, name: str) -> None:
    """Says which generation is about to answer."""
    # Who may write holds it first: its file is there then for readers of a read-only disk.
    with generations.holding("opening"):
        generations.change(opening=name)


def _wait_for_readers(generations: Generations) -> None:
    """Waits for those who open the next model, so that no question has to."""
    try:
        with generations.holding("opening", alone=True, seconds=_OPENING):
            pass
    except TimeoutError:
        log.warning(
            f"note: after {_OPENING:g} s a reader still opens the next model. It is switched all "
            "the same, and that reader's next question waits for it"
        )


def _verify(new: Filling, max_removed: float) -> None:
    """Compares what was written with what it should be."""
    _check_counts(new, max_removed)
    rng = np.random.default_rng(0)
    paths = sorted(path for path in records_by_path(new.after))
    chosen = [paths[row] for row in rng.permutation(len(paths))[:_CHECKED]]
    stored = new.after.fetch(chosen)
    known = {record.path: record for record, _ in stored}
    vectors = {record.path: vector for record, vector in stored}
    with PhotoFiles(new.root, new.options) as files:
        parts = files.look(list(map(unread, known.values())), known, float("inf"), True)
        seen = [each for part in parts for each in part]
        # What has changed since is the business of the next index run.
        same = [each for each in seen if each.record.checksum == known[each.record.path].checksum]
        worst = _worst(new.encoder, same, vectors)
        files.let_go(seen)
    if worst < encoders.SAME_COSINE:
        raise FirError(
            "the new vectors are not those of the model: of a photo that was embedded again the "
            f"cosine is {worst:.4f}. Nothing was switched; migrate --rollback removes them"
        )
    log.info(f"{len(new.after):,} photos; {len(same)} of them embedded again: the same vectors")


def _worst(
    encoder: encoders.Encoder, seen: Sequence[Seen], vectors: dict[str, np.ndarray]
) -> float:
    """Returns the least cosine of stored vectors and those made anew, 1 for none."""
    files = [str(each.file) for each in seen]
    if not files:
        return 1.0
    boxes = boxes_of([each.record for each in seen])
    parts = encoder.encode_files(files, boxes=boxes)
    anew = np.concatenate([part.embedding for part in parts])
    before = np.stack([vectors[each.record.path] for each in seen])
    return float((anew * before).sum(axis=1).min())


def _check_counts(new: Filling, max_removed: float) -> None:
    wanted, there = len(new.before), len(new.after)
    if there + len(new.lost) != wanted:
        raise FirError(
            f"the new vectors must be of all {wanted:,} photos. Received: {there:,}, and "
            f"{len(new.lost):,} photos that cannot be read. Give the command again"
        )
    if len(new.lost) > max_removed * wanted or not there:
        raise FirError(
            f"{len(new.lost):,} of {wanted:,} photos cannot be read, over --max_removed="
            f"{max_removed:g} of them: {listed(new.lost, 'photo', 'photos')}. Nothing was "
            "switched; give the command again when they can be read"
        )
    if new.lost:
        log.info(f"{listed(new.lost, 'photo', 'photos')} cannot be read: the new model is without")
