"""Kills `search.py migrate` before each of its writes in turn; see test_migrate.py.

A process of its own: it does nothing but fork, for what a database's client or TensorFlow has
started does not survive a fork.

    python killed_migration.py PHOTOS MODELS ADDRESS COMMAND

ADDRESS has {} for a number: each attempt is at an index of its own. It prints a JSON line for each:
what answers after the kill, and after the same command was given again.
"""

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

from two_models import build, contents, migration, two_models

from fir_tf.search.coming import migrating
from fir_tf.search.engines import generations_of, open_engine
from fir_tf.search.migrating import migrate

_WRITES = ("set_info", "upsert", "update", "delete", "flush")


def forked(function, *arguments):
    """Returns (what a function returned in a forked process, or None; how that process ended)."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(writing, json.dumps(function(*arguments)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, ended = os.waitpid(child, 0)
    return json.loads(text) if text else None, os.waitstatus_to_exitcode(ended)


def killing(number, address):
    """Patches what writes to an index: the process dies before the write of this number."""
    left = [number]

    def counted(method):
        def call(*arguments, **keywords):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return method(*arguments, **keywords)

        return call

    with open_engine(address) as engine, generations_of(address) as generations:
        kinds = [(type(engine), _WRITES), (type(generations), ("store", "drop"))]
    patches = [
        mock.patch.object(kind, name, counted(getattr(kind, name)))
        for kind, names in kinds
        for name in names
    ]
    for patch in patches:
        patch.start()
    return left


def prepare(photos, models, address, command):
    with two_models():
        build(photos, address, models / "old")
        if command != "migrate":
            migrate(migration(address, models / "new"))


def run(models, address, command, number):
    """Gives the command; returns how many writes it made."""
    changes = {} if command == "migrate" else {command: True}
    with two_models():
        left = killing(number, address)
        migrate(migration(address, models / "new" if command == "migrate" else "", **changes))
    return number - left[0]


def state(address):
    with migrating(address) as generations:
        state = generations.state()
    return [sorted(contents(address).items()), state.previous, state.coming]


def main(photos, models, form, command):
    number = 0
    while True:
        address = form.format(number)
        assert forked(prepare, photos, models, address, command)[1] == 0
        before = forked(lambda address: sorted(contents(address).items()), address)[0]
        writes, ended = forked(run, models, address, command, number)
        after = forked(lambda address: sorted(contents(address).items()), address)[0]
        again = forked(run, models, address, command, 1000)[1]
        last = forked(state, address)[0]
        killed = ended == -signal.SIGKILL
        assert killed or ended == 0, ended
        print(json.dumps([killed, before, after, again, last]), flush=True)
        if not killed:
            return
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
