"""What cannot be looked at is not gone: indexes, training and copies lose nothing by it."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest
from small_sets import write_jpeg
from stub_encoder import StubEncoder, index_options, stored

from fir_tf.datasets import load, walk
from fir_tf.datasets.__main__ import main
from fir_tf.datasets.walk import find_photos
from fir_tf.errors import FirError
from fir_tf.search import encoder as encoder_module
from fir_tf.search.engines import open_engine
from fir_tf.search.indexing import build


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch):
    monkeypatch.setattr(encoder_module, "Encoder", StubEncoder)


@contextlib.contextmanager
def unprivileged():
    """Root may read everything: be nobody for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def open_folder():
    """A folder that nobody may write too, with 4 photos in each of 3 categories below `photos`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    make_photos(folder / "photos")
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o777)
    shutil.rmtree(folder)


def make_photos(root, items=2, views=2):
    for number, category in enumerate(("Coats", "Dresses", "Tops")):
        for item in range(items):
            for view in range(views):
                seed = 100 * number + 10 * item + view
                write_jpeg(root / f"{category}/{item}/{view}.jpg", seed, size=(16, 16))
    return root


def write_table(photos):
    table = photos.parent / "shop.csv"
    paths = sorted(path.relative_to(table.parent) for path in photos.rglob("*.jpg"))
    table.write_text("path,item\n" + "".join(f"{path},{path.parent.name}\n" for path in paths))
    return table


def test_a_table_whose_photos_are_all_offline(tmp_path, capsys):
    photos, address = make_photos(tmp_path / "photos"), tmp_path / "index"
    table = write_table(photos)
    build(index_options(table, address))
    before = stored(address)
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(FirError, match="12 of 12 photos cannot be opened.*share offline.*has 12"):
        build(index_options(table, address))
    assert stored(address) == before
    out = capsys.readouterr().out
    assert "12 images (photos/Coats/0/0.jpg, " in out and "stay in the index" in out
    # Not with --remove either: they are listed.
    with pytest.raises(FirError, match="cannot be opened"):
        build(index_options(table, address, remove=True))
    assert stored(address) == before
    (tmp_path / "elsewhere").rename(photos)
    counts = build(index_options(table, address))
    assert (counts["kept"], counts["images"], counts["held"]) == (12, 12, [])


def test_an_offline_photo_is_known_in_the_form_its_file_had(tmp_path):
    photos, address = make_photos(tmp_path / "photos", items=4), tmp_path / "index"
    write_jpeg(photos / unicodedata.normalize("NFD", "é.jpg"), 1, size=(16, 16))
    write_jpeg(photos / " a.jpg ", 2, size=(16, 16))
    table = write_table(photos)
    rows = table.read_text() + "photos/ a.jpg ,7\n"
    table.write_text(unicodedata.normalize("NFC", rows))
    build(index_options(table, address))
    before = stored(address)
    assert {f"photos/{unicodedata.normalize('NFD', 'é.jpg')}", "photos/ a.jpg "} <= set(before)
    photos.rename(tmp_path / "offline")
    with pytest.raises(FirError, match="26 of 26 photos cannot be opened"):
        build(index_options(table, address))
    assert stored(address) == before
    # A photo whose row is gone is removed, whatever a similar name does.
    (tmp_path / "offline").rename(photos)
    write_jpeg(photos / "é.jpg", 3, size=(16, 16))
    assert build(index_options(table, address))["removed"] == 1


def test_a_new_index_of_photos_that_are_offline_is_no_success(tmp_path):
    table = write_table(make_photos(tmp_path / "photos"))
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(FirError, match="12 of 12 photos cannot be opened"):
        build(index_options(table, tmp_path / "index"))


def test_one_photo_of_many_that_is_missing_is_listed_and_stays(tmp_path, capsys):
    photos, address = make_photos(tmp_path / "photos", items=4), tmp_path / "index"
    table = write_table(photos)
    build(index_options(table, address))
    before = stored(address)
    (photos / "Tops/0/0.jpg").unlink()
    (photos / "Tops/0/1.jpg").write_bytes(b"no image")
    counts = build(index_options(table, address))
    assert stored(address) == before
    lost = ["photos/Tops/0/0.jpg", "photos/Tops/0/1.jpg"]
    assert counts["unreadable"] == sorted(counts["held"]) == lost and counts["unopened"] == 1
    assert all(path in capsys.readouterr().out for path in lost[:1])


def test_a_photo_known_by_its_contents_that_breaks_stays(tmp_path, capsys):
    photos, address = make_photos(tmp_path / "photos"), tmp_path / "index"
    for name in ("0/0", "0/1.webp"):
        write_jpeg(photos / "Coats" / name, 7, size=(16, 16))
    build(index_options(photos, address))
    before = stored(address)
    assert len(before) == 14
    (photos / "Coats/0/0").write_bytes(b"")
    (photos / "Coats/0/1.webp").write_bytes(b"RIFF    WEBP")
    counts = build(index_options(photos, address, max_removed=0))
    assert stored(address) == before and counts["held"] == ["Coats/0/0", "Coats/0/1.webp"]
    assert "2 images (Coats/0/0, Coats/0/1.webp) cannot be read now" in capsys.readouterr().out


def test_a_folder_without_permission_keeps_what_the_index_has(open_folder, capsys):
    photos, address = open_folder / "photos", open_folder / "index"
    with unprivileged():
        build(index_options(photos, address))
        before = stored(address)
    write_jpeg(photos / "Tops/7/0.jpg", 7)
    (photos / "Tops/0/0.jpg").unlink()
    (photos / "Coats").chmod(0)
    with unprivileged(), pytest.raises(FirError, match=r"1 place \(.*Coats: Permission denied\)"):
        build(index_options(photos, address))
    after = stored(address)
    # All else is done: one is new, one is gone.
    assert set(after) == set(before) - {"Tops/0/0.jpg"} | {"Tops/7/0.jpg"}
    assert "4 images (Coats/0/0.jpg, " in capsys.readouterr().out


def test_a_folder_that_can_be_listed_but_not_entered_keeps_what_the_index_has(open_folder):
    photos, address = open_folder / "photos", open_folder / "index"
    with unprivileged():
        build(index_options(photos, address))
        before = stored(address)
    for folder in ("Coats", "Tops/0"):
        (photos / folder).chmod(0o444)
    with unprivileged(), pytest.raises(FirError, match="4 places.*6 of them from before"):
        build(index_options(photos, address))
    assert stored(address) == before


def test_training_check_and_prepare_refuse_a_folder_without_permission(open_folder, capsys):
    make_photos(open_folder / "photos", items=20)
    (open_folder / "photos/Coats").chmod(0)
    photos = str(open_folder / "photos")
    with unprivileged():
        with pytest.raises(FirError, match=r"1 file or folder \(.*Coats: Permission denied"):
            load("folder", photos)
        for command in (["check"], ["prepare"]):
            out = f"--out={open_folder}/{command[0]}"
            assert main([*command, "--dataset=folder", f"--data_dir={photos}", out]) == 1
            assert "Coats: Permission denied" in capsys.readouterr().err
            assert not Path(out[6:]).exists()
        with pytest.raises(FirError, match="must be a folder that can be reached.*Permission"):
            find_photos(open_folder / "photos/Coats/0")


def test_a_table_in_a_folder_without_permission_names_the_folder(open_folder):
    table = write_table(make_photos(open_folder / "photos", items=20))
    (open_folder / "photos/Tops").chmod(0)
    with unprivileged(), pytest.raises(FirError, match=r"40 folders|Permission denied") as error:
        load("table", table)
    assert "do not exist" not in str(error.value)


def test_a_share_that_goes_offline_while_photos_are_embedded(tmp_path, monkeypatch):
    photos, address = make_photos(tmp_path / "photos", items=4), tmp_path / "index"
    whole = StubEncoder.encode_files

    def goes(self, files, batch_size, guess=False):
        for number, batch in enumerate(whole(self, files, batch_size, guess)):
            if number == 2:
                photos.rename(tmp_path / "offline")
            yield batch

    monkeypatch.setattr(StubEncoder, "encode_files", goes)
    with pytest.raises(FirError, match="12 of 24 photos cannot be opened"):
        build(index_options(photos, address))
    assert len(stored(address)) == 12


def test_a_root_that_fails_after_its_first_look_keeps_everything(tmp_path, monkeypatch):
    photos, address = make_photos(tmp_path / "photos"), tmp_path / "index"
    build(index_options(photos, address))
    before = stored(address)
    whole, looks = os.scandir, []

    def fails(path):
        looks.append(path)
        if len(looks) > 1:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return whole(path)

    monkeypatch.setattr(walk.os, "scandir", fails)
    with pytest.raises(FirError, match="Input/output error"):
        build(index_options(photos, address, remove=True))
    monkeypatch.undo()
    assert stored(address) == before


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE, errno.EACCES, "vanishes"])
def test_a_walk_that_fails_keeps_what_the_index_has(tmp_path, monkeypatch, fault):
    photos, address = make_photos(tmp_path / "photos"), tmp_path / "index"
    build(index_options(photos, address))
    before = stored(address)
    whole = os.scandir

    def fails(path):
        if str(path).endswith("Dresses"):
            if fault == "vanishes":
                shutil.rmtree(path)
            else:
                raise OSError(fault, os.strerror(fault), str(path))
        return whole(path)

    monkeypatch.setattr(walk.os, "scandir", fails)
    with pytest.raises(FirError, match="cannot be looked at"):
        build(index_options(photos, address))
    assert stored(address) == before


def test_a_link_to_a_share_that_is_offline_keeps_what_the_index_has(tmp_path):
    photos, address = make_photos(tmp_path / "photos"), tmp_path / "index"
    (photos / "Coats").rename(tmp_path / "share")
    (photos / "Coats").symlink_to(tmp_path / "share")
    build(index_options(photos, address))
    before = stored(address)
    assert sum(path.startswith("Coats/") for path in before) == 4
    (tmp_path / "share").rename(tmp_path / "offline")
    with pytest.raises(FirError, match=r"Coats: No such file.*4 of them from before"):
        build(index_options(photos, address))
    assert stored(address) == before
    with pytest.raises(FirError, match="Coats: No such file"):
        load("folder", photos)


def test_more_than_a_tenth_is_not_removed_unasked(tmp_path):
    photos, address = make_photos(tmp_path / "photos", items=5), tmp_path / "index"
    build(index_options(photos, address))
    before = stored(address)
    assert len(before) == 30
    # An empty mount point is a folder without photos.
    moved = shutil.move(photos / "Coats", tmp_path / "moved")
    (photos / "Coats").mkdir()
    with pytest.raises(FirError, match=r"10 of the 30 .* \(Coats/0/0.jpg, .*\).*--remove takes"):
        build(index_options(photos, address))
    with pytest.raises(FirError, match="24 of the 30"):
        build(index_options(make_photos(tmp_path / "other", items=1), address, max_removed=0.7))
    assert stored(address) == before
    with open_engine(address) as engine:
        assert engine.info()["root"] == str(photos)
    counts = build(index_options(photos, address, remove=True))
    assert (counts["removed"], counts["images"], counts["kept"]) == (10, 20, 20)
    shutil.move(moved, photos / "Coats/more")
    build(index_options(photos, address))
    shutil.rmtree(photos / "Coats/more/0")
    counts = build(index_options(photos, address))
    assert (counts["removed"], counts["images"]) == (2, 28)
    shutil.rmtree(photos / "Tops")
    assert build(index_options(photos, address, max_removed=0.5))["removed"] == 10


def test_a_copy_outlives_sources_that_are_offline(tmp_path, capsys):
    photos, copy = make_photos(tmp_path / "shop/photos", items=20), tmp_path / "copy"
    arguments = ["prepare", "--dataset=table", f"--data_dir={write_table(photos)}", f"--out={copy}"]
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (photos / "Coats").rename(tmp_path / "offline")
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "40 of 120 images cannot be read now" in told.err and "Coats/0/0.jpg" in told.out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_copy_by_another_version_outlives_sources_that_are_offline(tmp_path, capsys):
    photos, copy = make_photos(tmp_path / "shop/photos", items=20), tmp_path / "copy"
    arguments = ["prepare", "--dataset=table", f"--data_dir={write_table(photos)}", f"--out={copy}"]
    assert main(arguments) == 0
    before = {
        path: path.read_bytes() for path in copy.rglob("*") if path.suffix in (".jpg", ".csv")
    }
    settings = json.loads((copy / "prepare.json").read_text())
    (copy / "prepare.json").write_text(json.dumps(settings | {"pillow": "1.0"}))
    (photos / "Coats").rename(tmp_path / "offline")
    assert main(arguments) == 1
    assert "40 of 120 images cannot be read now" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "offline").rename(photos / "Coats")
    assert main(arguments) == 0
    assert "40 images written, 80 were there" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["path,item\nimages/0.jpg,0\n", "source\n\udcff\n"])
def test_a_copy_whose_table_is_damaged_is_left_alone(tmp_path, capsys, text):
    photos, copy = make_photos(tmp_path / "photos", items=20), tmp_path / "copy"
    arguments = ["prepare", "--dataset=folder", f"--data_dir={photos}", f"--out={copy}"]
    assert main(arguments) == 0
    (copy / "catalogue.csv").write_bytes(text.encode(errors="surrogateescape"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(arguments) == 1
    assert "catalogue.csv must be the table that `prepare` wrote" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_copy_is_not_emptied_unasked(tmp_path, capsys):
    photos, copy = make_photos(tmp_path / "photos", items=20), tmp_path / "copy"
    arguments = ["prepare", "--dataset=folder", f"--data_dir={photos}", f"--out={copy}"]
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    shutil.rmtree(photos / "Coats")
    assert main(arguments) == 1
    assert "40 of the 120 images of the copy" in capsys.readouterr().err
    assert main([*arguments, "--max_removed=0.3"]) == 1
    assert "over --max_removed=0.3 of them" in capsys.readouterr().err
    assert main([*arguments, "--max_removed=1.1"]) == 1
    assert "`max_removed` must be between 0 and 1" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert main([*arguments, "--remove"]) == 0
    assert len(list(copy.rglob("*.jpg"))) == 80
    # What was removed is not missed again.
    assert main(arguments) == 0
    shutil.rmtree(photos / "Tops")
    assert main([*arguments, "--max_removed=0.5"]) == 0
    assert len(list(copy.rglob("*.jpg"))) == 40
