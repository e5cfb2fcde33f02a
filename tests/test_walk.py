"""Which files below a folder are photos: one rule for every command."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_images import encoded, picture
from small_sets import write_jpeg
from stub_encoder import StubEncoder, index_options

from fir_tf.config import PHOTO_RULE
from fir_tf.datasets import load
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.walk import find_photos
from fir_tf.errors import FirError
from fir_tf.search import encoder as encoder_module
from fir_tf.search.indexing import build
from fir_tf.search.listing import read_catalogue


def touch(root, *paths, contents=b"x"):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(contents)


def folder_of(root, items=30, views=3):
    """Photos at <category>/<item>/<view>, enough to be split."""
    for item in range(items):
        for view in range(views):
            write_jpeg(root / f"c{item % 2}/item {item}/{view}.jpg", 10 * item + view, size=(8, 8))
    return root


def test_a_loop_of_links_ends_and_every_photo_is_listed_once(tmp_path):
    root = tmp_path / "photos"
    touch(root, *(f"c/{item}/{view}.jpg" for item in range(6) for view in range(4)))
    (root / "c/0/back").symlink_to(root)
    (root / "c/1/up").symlink_to("..")
    (root / "out").symlink_to(tmp_path)
    (root / "itself").symlink_to("itself")
    (root / "a loop").symlink_to("c")
    found = find_photos(root)
    assert found.photos == sorted(
        path.relative_to(root).as_posix() for path in root.glob("c/*/*.jpg")
    )
    (note,) = found.notes()
    assert re.search(r"4 links to folders that are read already \(the first: a loop\)", note)
    assert list(found.unreachable) == ["itself"]


def test_a_link_to_a_folder_elsewhere_is_followed_once(tmp_path):
    root, shelf = tmp_path / "photos", tmp_path / "shelf"
    touch(root, "c/1/a.jpg")
    touch(shelf, "2/b.jpg", "3/c.jpg")
    for name in ("b", "z"):
        (root / name).symlink_to(shelf)
    # Back into what links here.
    (shelf / "3/photos").symlink_to(root)
    (root / "c/1/b.jpg").symlink_to(shelf / "2/b.jpg")
    found = find_photos(root)
    assert found.photos == ["b/2/b.jpg", "b/3/c.jpg", "c/1/a.jpg", "c/1/b.jpg"]
    assert sorted(path for paths in found.skipped.values() for path in paths) == [
        "b/3/photos",
        "z",
    ]


def test_links_to_a_folder_and_to_one_in_it_list_it_once(tmp_path):
    root, shelf = tmp_path / "photos", tmp_path / "shelf"
    touch(root, "c/1/a.jpg")
    touch(shelf, "2/b.jpg", "3/c.jpg")
    (root / "a").symlink_to(shelf / "3")
    (root / "b").symlink_to(shelf)
    found = find_photos(root)
    assert found.photos == ["a/c.jpg", "b/2/b.jpg", "c/1/a.jpg"]
    assert list(found.skipped.values()) == [["b/3"]]


FOLDERS = ("", "a", "a/b", "c", "c/d")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(FOLDERS), max_size=6),
    st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)), max_size=5),
)
def test_links_change_nothing_whatever_they_lead_to(tmp_path_factory, places, links):
    """All links lead to folders below the root: the photos are those of a walk without links."""
    root = tmp_path_factory.mktemp("walk")
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    for number, folder in enumerate(places):
        touch(root, f"{folder}/{number}.jpg" if folder else f"{number}.jpg")
    for number, (place, target) in enumerate(links):
        (root / place / f"link{number}").symlink_to(root / target)
    expected = {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".jpg")
    }
    found = find_photos(root)
    assert len(found.photos) == len(expected) and set(found.photos) == expected
    assert sum(map(len, found.skipped.values())) == len(links) and not found.unreachable


def test_the_order_is_that_of_the_names_whatever_the_file_system_says(tmp_path, monkeypatch):
    touch(tmp_path, "b/1.jpg", "a/2.jpg", "a/10.jpg", "a-/3.jpg", "z.jpg", "a/b/1.jpg")
    expected = ["z.jpg", "a/10.jpg", "a/2.jpg", "a/b/1.jpg", "a-/3.jpg", "b/1.jpg"]
    assert find_photos(tmp_path).photos == expected


@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [
        ("a.jpg", "JPEG", "photo"),
        ("a.JPEG", "JPEG", "photo"),
        ("a.jpe", "JPEG", "photo"),
        ("a.Jfif", "JPEG", "photo"),
        ("a.dib", "BMP", "photo"),
        ("a.gif", "GIF", "photo"),
        ("without", "JPEG", "photo by contents"),
        ("a.jpg_large", "JPEG", "photo by contents"),
        ("a.txt", "PNG", "photo by contents"),
        ("a.img", "GIF", "photo by contents"),
        ("a.tmp", "BMP", "photo by contents"),
        # What a web shop calls WebP often is none.
        ("a.webp", "JPEG", "photo by contents"),
        ("a.webp", "WEBP", "other"),
        ("a.TIF", "TIFF", "other"),
        ("b", "AVIF", "other"),
        ("a.bin", "JPEG2000", "other"),
        ("BM.txt", b"BMW, Mercedes and others", "skipped"),
        ("notes.md", b"", "skipped"),
        ("a.svg", b"<svg/>", "skipped"),
    ],
)
def test_a_photo_is_known_by_its_ending_or_its_first_bytes(tmp_path, name, form, kind):
    contents = form if isinstance(form, bytes) else encoded(picture(1, (16, 16)), form)
    touch(tmp_path, name, contents=contents)
    found = find_photos(tmp_path)
    assert (found.photos == [name]) == kind.startswith("photo")
    assert (found.by_contents == [name]) == (kind == "photo by contents")
    assert (found.others == [name]) == (kind == "other")
    assert (list(found.skipped.values()) == [[name]]) == (kind == "skipped")
    assert len(found.notes()) == (kind != "photo")


@pytest.mark.slow
def test_what_is_taken_by_its_contents_is_decoded(tmp_path):
    from fir_tf.input.batches import ordered_batches

    names = ("a.jfif", "b.jpe", "c.dib", "d", "e.txt", "f.webp")
    forms = ("JPEG", "JPEG", "BMP", "PNG", "GIF", "JPEG")
    for name, form in zip(names, forms, strict=True):
        touch(tmp_path, name, contents=encoded(picture(1, (16, 16)), form))
    files = [str(tmp_path / path) for path in find_photos(tmp_path).photos]
    assert [os.path.basename(path) for path in files] == list(names)
    (batch,) = ordered_batches(files, 16, "squash", len(files))[0]
    assert batch["valid"].numpy().all()


def test_hidden_and_system_names_are_skipped_and_counted(tmp_path):
    hidden = (
        ".ipynb_checkpoints/1/a.jpg",
        "__MACOSX/c/._a.jpg",
        "c/@eaDir/a.jpg/SYNO.jpg",
        "c/1/.DS_Store",
        "c/1/._b.jpg",
        "c/1/Thumbs.db",
        "$RECYCLE.BIN/x.jpg",
        ".git/deep/er/a.png",
    )
    touch(tmp_path, "c/1/b.jpg", *hidden)
    found = find_photos(tmp_path)
    assert found.photos == ["c/1/b.jpg"]
    assert found.notes() == (
        f"skipped in {tmp_path}: 8 hidden or of the system (the first: $RECYCLE.BIN/x.jpg)",
    )
    # A folder in a hidden one counts as one, whatever it holds: it may be a copy of the share.
    touch(tmp_path, ".git/deep/er/b.png")
    assert find_photos(tmp_path).notes() == found.notes()
    (tmp_path / ".git/deep/er/b.png").unlink()
    # The folder that is named may be hidden itself.
    assert find_photos(tmp_path / ".git").photos == ["deep/er/a.png"]


def test_many_endings_are_counted_together(tmp_path):
    touch(tmp_path, *(f"{number}.v{number}" for number in range(20)), "a.txt", "b.txt")
    (note,) = find_photos(tmp_path).notes()
    assert ": 2 .txt, 1 .v0, " in note and ", 15 of other endings that are no images" in note


def test_pipes_are_not_waited_for(tmp_path):
    touch(tmp_path, "c/1/b.jpg")
    os.mkfifo(tmp_path / "c/1/a.jpg")
    found = find_photos(tmp_path)
    assert found.photos == ["c/1/b.jpg"] and "1 that are neither files nor" in found.notes()[0]


def test_every_command_says_the_same(tmp_path, monkeypatch, capsys):
    """Train, evaluate and export (which load), check, prepare and the index."""
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)
    root = folder_of(tmp_path / "photos")
    touch(root, "c0/item 0/8.webp", contents=encoded(picture(1, (70, 70)), "WEBP"))
    touch(root, "c0/item 0/9", contents=encoded(picture(2, (70, 70)), "JPEG"))
    touch(root, ".ipynb_checkpoints/item/a.jpg", "c1/item 1/Thumbs.db", "read me.txt", "LICENSE")
    others = "1 .webp (`python -m fir_tf.datasets prepare` converts them; the first: c0/item 0/8.w"
    rest = (
        "1 without an ending, 1 .txt that are no images (the first: LICENSE)",
        "2 hidden or of the system (the first: .ipynb_checkpoints/item)",
    )
    taken = f"photos by their first bytes, not by their endings, in {root}: 1 without an ending"
    catalogue = load("folder", root)
    assert len(catalogue) == 91 and catalogue.categories == ("c0", "c1")
    build(index_options(root, tmp_path / "index"))
    texts = [catalogue.describe(), capsys.readouterr().out]
    assert "91 embedded" in texts[1]
    assert all(others in text for text in texts)
    for command in ("check", "prepare"):
        out = f"--out={tmp_path / command}"
        main([command, "--dataset=folder", f"--data_dir={root}", out])
        texts.append(capsys.readouterr().out)
        assert f"note: 1 .webp in {root} are taken here; training skips them" in texts[-1]
        assert "92 images under" in texts[-1]
    for text in texts:
        assert all(part in text for part in (*rest, taken))


def test_the_rule_is_in_every_help(capsys):
    from fir_tf.config import Config
    from fir_tf.search_options import IndexOptions

    words = PHOTO_RULE.split()
    for options, name in ((Config, "data_dir"), (IndexOptions, "images")):
        assert PHOTO_RULE in options.__dataclass_fields__[name].metadata["help"]
    for command in ("check", "prepare"):
        assert main([command, "--help"]) == 0
        assert " ".join(words) in " ".join(capsys.readouterr().out.split())
    page = (Path(__file__).parent.parent / "docs/catalogue.md").read_text()
    for ending in re.findall(r"\.[a-z]{3,4}\b", PHOTO_RULE.split("in any case")[0]):
        assert ending in page


def test_an_index_of_a_folder_of_nothing_says_what_is_there(tmp_path):
    touch(tmp_path, "a.webp", "b.txt")
    with pytest.raises(FirError, match=r"no photo was found in .*\n.*1 .webp .*1 .txt"):
        read_catalogue(tmp_path)
    with pytest.raises(FirError, match=r"no image was found in .*\n.*1 .webp .*1 .txt"):
        load("folder", tmp_path)


def test_a_file_system_that_numbers_nothing_loses_nothing(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "c").symlink_to("a")
    whole = os.stat

    def unnumbered(path, **named):
        status = whole(path, **named)
        values = list(status)
        values[1] = 0
        return os.stat_result(values)

    monkeypatch.setattr("fir_tf.datasets.walk.os.stat", unnumbered)
    found = find_photos(tmp_path)
    assert found.photos == ["a/1.jpg", "b/2.jpg"] and list(found.skipped.values()) == [["c"]]


def test_many_files_are_walked_fast(tmp_path):
    """A photo known by its ending is not opened."""
    touch(tmp_path, *(f"c/{number // 50}/{number}.jpg" for number in range(500)))
    opened = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.open", lambda *_, **__: opened.append(1))
        assert len(find_photos(tmp_path).photos) == 500
    assert not opened and np.unique(find_photos(tmp_path).photos).size == 500
