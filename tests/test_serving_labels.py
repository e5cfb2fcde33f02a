"""Two versions of a model behind one server, asked by their labels and compared."""

import logging
import threading
import time
import types

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving")

from serving_stand_in import serving  # noqa: E402

from fir_tf.errors import FirError  # noqa: E402
from fir_tf.serving.both import _WAITING, Both, Differences, differences  # noqa: E402
from fir_tf.serving.client import Client  # noqa: E402

TEXT = tf.TensorSpec([None], tf.string)


def version(folder, items, embedding, unread=b"nothing"):
    """Saves and loads a model that finds these items in every photo but one that it cannot read."""
    module = tf.Module()

    @tf.function(input_signature=[TEXT])
    def embed(image_bytes):
        valid = image_bytes != unread
        rows = tf.cast(valid, tf.float32)[:, tf.newaxis] * tf.constant([embedding], tf.float32)
        return {"embedding": rows, "valid": valid, "error": tf.where(valid, "", "UNREADABLE")}

    @tf.function(input_signature=[TEXT, tf.TensorSpec([None], tf.int32), TEXT])
    def search(image_bytes, k, category):
        del k, category
        valid = image_bytes != unread
        found = tf.where(valid[:, tf.newaxis], tf.constant([items]), "")
        return {
            "item_id": found,
            "image_path": found,
            "score": tf.zeros(tf.shape(found)),
            "valid": valid,
            "error": tf.where(valid, "", "UNREADABLE"),
        }

    module.embed, module.search = embed, search
    tf.saved_model.save(module, str(folder), {"embed": embed, "search": search})
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    return {
        "stable": version(folder / "1", ["a", "b", "c"], [1.0, 0.0]),
        "canary": version(folder / "2", ["a", "c", "d"], [0.6, 0.8], unread=b"dark"),
    }


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_label_chooses_and_another_one_is_asked_beside(labels, protocol, caplog):
    with serving(labels["canary"], labels=labels) as (server, *addresses):
        address = next(place for place in addresses if place.startswith(protocol))
        with (
            caplog.at_level(logging.INFO, "fir_tf.serving"),
            Client(address, label="stable", also="canary", batch_size=2, timeout=60) as client,
        ):
            found = client.search([b"one", b"two", b"dark"], k=3)
            vectors = client.embed([b"one"])
        # Answers are the stable version's, also of what the other one cannot read.
        assert [[m.item_id for m in row.matches] for row in found] == [["a", "b", "c"]] * 3
        assert vectors[0].embedding.tolist() == [1, 0]
        assert client.differences() == Differences(
            images=4, alike=pytest.approx(2 * 2 / 3 + 0.6), first=2, validity=1
        )
        told = client.differences().told()
        assert told["alike"] == pytest.approx((4 / 3 + 0.6) / 4) and told["first"] == 0.5
        assert len(server.batches) == 6
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 3 and all("canary" in line for line in lines)
        assert "search, 1 images" in lines[1] and "1 that one of them alone" in lines[1]
        with Client(address, label="canary", timeout=60) as client:
            assert [m.item_id for m in client.search([b"one"])[0].matches] == ["a", "c", "d"]
            assert client.differences() == Differences() and client.ready()
        with Client(address, label="old", timeout=60) as client, pytest.raises(FirError):
            client.embed([b"one"])
        # What fails beside is no failure of the client's.
        with Client(address, label="stable", also="old", timeout=60) as client:
            assert client.embed([b"one"])[0].valid
        assert client.differences() == Differences(failed=1)


def row(items, valid=True):
    return {"item_id": items, "valid": valid}


def test_differences_of_answers():
    rows = [row(["a", "b", ""]), row([]), row(["a"]), row(["a"], False), row(["a"], False)]
    others = [row(["a", "", ""]), row([]), row(["b"]), row([], False), row(["a"])]
    found = differences(rows, others)
    assert found == Differences(images=5, alike=0.5 + 1 + 0 + 1, first=3, validity=1)
    assert (found + found).told()["alike"] == found.told()["alike"] == 0.5
    assert Differences().told()["alike"] is None
    named = [{"category": ["x", "y"], "valid": True}], [{"category": ["y", "x"], "valid": True}]
    assert differences(*named) == Differences(images=1, alike=1.0)
    short, long = ({"embedding": np.eye(n)[0], "valid": True} for n in (2, 3))
    assert differences([short], [long]) == Differences(images=1)
    assert differences([short], [short]) == Differences(images=1, alike=1.0, first=1)


def test_a_version_that_does_not_keep_up_is_left_out():
    free = threading.Event()

    class Slow:
        closed = False

        def predict(self, signature, inputs):
            free.wait(60)
            return [row(["a"])]

        def close(self):
            self.closed = True

    slow = Slow()
    both = Both(slow, "canary")
    for _ in range(_WAITING + 5):
        both.ask("search", {}, [row(["a"])])
    free.set()
    both.close()
    assert both.told().skipped == 5 and both.told().images == _WAITING
    assert slow.closed


def test_at_the_end_what_has_not_begun_is_left_out():
    """A version that answers nothing costs one timeout, whatever waits for it."""
    begun, asked = threading.Event(), []

    def hang(*_):
        begun.set()
        asked.append(time.sleep(0.3))
        raise FirError("no answer in time")

    closed = []
    both = Both(
        types.SimpleNamespace(predict=hang, close=lambda: closed.append(1)), "canary", grace=0.1
    )
    for _ in range(_WAITING):
        both.ask("search", {}, [row(["a"])])
    assert begun.wait(60)
    both.close()
    assert both.told() == Differences(failed=len(asked), skipped=_WAITING - len(asked))
    assert len(asked) < _WAITING / 2 and closed


def test_a_version_that_is_gone_is_said_once_and_when_it_is_back(caplog):
    answers = iter("ggnnnngg")

    def predict(signature, _):
        if signature == "embed" or next(answers) == "n":
            raise FirError("nobody there")
        return [row(["a"])]

    both = Both(types.SimpleNamespace(predict=predict, close=lambda: None), "canary")
    for _ in range(8):
        both.ask("search", {}, [row(["a"])])
        # One that this version never answers says nothing of the other.
        both.ask("embed", {}, [row(["a"])])
    both.close()
    assert both.told() == Differences(images=4, alike=4.0, first=4, failed=12)
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(": canary ")[::2] for line in told] == [
        ("embed", "did not answer: nobody there. Said once, until it does"),
        ("search", "did not answer: nobody there. Said once, until it does"),
        ("search", "answers again, 4 requests later"),
    ]


@pytest.mark.parametrize(
    "answer",
    [None, [], ["text"], [{"valid": True, "item_id": None}], [{"valid": True, "item_id": [["a"]]}]],
)
def test_an_answer_of_another_form_counts_as_none(answer, caplog):
    other = types.SimpleNamespace(predict=lambda *_: answer, close=lambda: None)
    both = Both(other, "canary")
    both.ask("search", {}, [row(["a"])])
    both.close()
    assert both.told() == Differences(failed=1) and "canary did not answer" in caplog.text


def test_an_embedding_that_is_none_leaves_the_others_cosine():
    rows = [{"embedding": np.eye(2)[0], "valid": True}] * 2
    broken = {"embedding": [float("nan"), 0], "valid": True}
    assert differences(rows, [rows[0], broken]) == Differences(images=2, alike=1.0, first=1)


def test_a_version_has_one_name():
    for given in ({"label": "stable", "version": 1}, {"label": "stable", "also": "stable"}):
        with pytest.raises(FirError, match="`label` must be given without"):
            Client("http://localhost:1", **given)
