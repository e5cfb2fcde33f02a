"""The pictures say what they should: colours of frames, marks, curves, tiles of broken files."""

import itertools
import math
import threading

import matplotlib
import numpy as np
import pytest
from PIL import Image

from fir_tf.errors import FirError
from fir_tf.evaluation import pictures
from fir_tf.evaluation.paper import PAPER_RESULTS
from fir_tf.evaluation.pictures import (
    SheetMatch,
    SheetRow,
    contact_sheet,
    recall_curve,
    training_curves,
)

TILE = (80, 100)
FRAME = 5
WHITE = (255, 255, 255)
BLUE, GREEN, RED, GREY = (0, 90, 181), (20, 140, 60), (205, 32, 44), (176, 176, 176)


def photo(path, colour, size=(60, 80), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def near(pixel, colour, tolerance=12):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def box(pixels, colour):
    """(left, top, right, bottom) of the area of a colour, as slices end."""
    found = (pixels == colour).all(axis=-1)
    # A few pixels of that colour can be the edges of letters.
    (rows,), (columns,) = (np.nonzero(found.sum(axis=axis) >= 20) for axis in (1, 0))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def ring(pixels, around, width):
    """The pixels of a frame of `width` around a box, [n, 3]."""
    left, top, right, bottom = around
    outer = pixels[top - width : bottom + width, left - width : right + width]
    inside = np.zeros(outer.shape[:2], bool)
    inside[width:-width, width:-width] = True
    return outer[~inside]


@pytest.fixture
def sheet(tmp_path):
    """(pixels, {(row, column): box}) of queries whose photos have a colour of their own each.

    Three queries with a right, a wrong and an unknown match, and one with a single match.
    """
    places = [(row, column) for row in range(4) for column in range(4) if row < 3 or column < 2]
    colours = {place: (40 + 10 * place[0], 60 + 10 * place[1], 250) for place in places}
    files = {
        (row, column): photo(tmp_path / f"{row}{column}.png", colour, (70, 90))
        for (row, column), colour in colours.items()
    }
    kinds = (True, False, None)
    rows = [
        SheetRow(
            files[row, 0],
            f"query {row}",
            [
                SheetMatch(files[row, column], 1 - column / 10, kinds[column - 1], f"item {column}")
                for column in range(1, 4)
                if (row, column) in files
            ],
        )
        for row in range(4)
    ]
    contact_sheet(rows, tmp_path / "out" / "sheet.png", "a title", tile=TILE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]
    pixels = drawn(tmp_path / "out" / "sheet.png")
    return pixels, {place: box(pixels, colour) for place, colour in colours.items()}


def test_photos_stand_in_rows_and_columns_in_their_order(sheet):
    pixels, boxes = sheet
    for left, top, right, bottom in boxes.values():
        assert (right - left, bottom - top) == (TILE[0] - 2 * FRAME, TILE[1] - 2 * FRAME)
    lefts = [{box[0] for (_, c), box in boxes.items() if c == column} for column in range(4)]
    tops = [{box[1] for (r, _), box in boxes.items() if r == row} for row in range(4)]
    assert all(len(same) == 1 for same in lefts + tops)
    across = np.diff([min(same) for same in lefts])
    down = np.diff([min(same) for same in tops])
    # Matches follow each other closely, the query stands apart, and below is room for a caption.
    assert TILE[0] < across[1] == across[2] < across[0] < 1.5 * TILE[0]
    assert TILE[1] + 20 < down[0] == down[1] == down[2] < 1.5 * TILE[1]


def test_a_sheet_has_the_same_margin_on_both_sides(tmp_path):
    """And its headings stand over their columns."""
    files = [photo(tmp_path / f"{n}.png", (40, 60 + n, 250), (70, 90)) for n in range(6)]
    row = SheetRow(files[0], "", [SheetMatch(file, 0.5, None, "") for file in files[1:]])
    contact_sheet([row], tmp_path / "sheet.png", tile=TILE)
    pixels = drawn(tmp_path / "sheet.png")
    boxes = [box(pixels, (40, 60 + n, 250)) for n in range(6)]
    assert boxes[0][0] == pixels.shape[1] - boxes[-1][2] == 16 + FRAME
    for left, top, right, _ in boxes:
        above = pixels[: top - FRAME, left - FRAME : right + FRAME].min(axis=-1)
        ink = np.nonzero((above < 200).any(axis=0))[0]
        assert ink.size and ink.min() < 5 and ink.max() < 60


def test_frames_have_the_right_colours(sheet):
    pixels, boxes = sheet
    for (_, column), place in boxes.items():
        assert (ring(pixels, place, FRAME) == (BLUE, GREEN, RED, GREY)[column]).all()
        # And nothing else is near.
        left, top, right, bottom = place
        outside = ring(pixels, (left - FRAME, top - FRAME, right + FRAME, bottom + FRAME), 2)
        assert (outside == WHITE).all()


def test_marks_can_be_read_without_colours(sheet):
    """Upper right on the photo: white strokes on a disc, a cross looks the same in a mirror."""
    pixels, boxes = sheet
    strokes = {}
    for (row, column), (left, top, right, bottom) in boxes.items():
        photo = pixels[top:bottom, left:right]
        rows, columns = np.nonzero((photo != photo[-1, 0]).any(axis=-1))
        if column in (0, 3):
            assert not len(rows)
            continue
        assert rows.max() < len(photo) / 2 < columns.min() + 10 and len(rows) > 400
        badge = photo[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert badge.shape[0] == badge.shape[1] == 26
        strokes[row, column] = badge[6:-6, 6:-6].min(axis=-1) > 150
    check, cross = strokes[0, 1], strokes[0, 2]
    assert 0.1 < check.mean() < 0.7 and 0.1 < cross.mean() < 0.7
    assert (cross == cross[:, ::-1]).mean() > 0.95
    assert (check == check[:, ::-1]).mean() < 0.8
    np.testing.assert_array_equal(cross, strokes[2, 2])


def test_captions_stand_below_their_photos(sheet):
    pixels, boxes = sheet
    for (row, column), (left, _, right, bottom) in boxes.items():
        caption = pixels[bottom + FRAME : bottom + FRAME + 24, left - FRAME : right + FRAME]
        assert caption.min() < 120
        if (row, column) == (3, 1):
            # Beside the last match nothing stands.
            assert pixels[bottom - 40 : bottom + FRAME + 24, right + FRAME :].min() == 255
    title = pixels[: boxes[0, 0][1] - FRAME - 20]
    assert title.min() < 60
    legend = pixels[boxes[3, 0][3] + FRAME + 24 :].reshape(-1, 3)
    for colour in (BLUE, GREEN, RED):
        assert (np.abs(legend.astype(int) - colour).max(axis=-1) <= 12).sum() > 30


@pytest.mark.parametrize("kinds", [(None,), (True,), (False, None), (True, False)])
def test_a_legend_explains_the_frames_that_there_are(tmp_path, kinds):
    file = photo(tmp_path / "one.png", (40, 60, 250), (70, 90))
    row = SheetRow(file, "", [SheetMatch(file, 0.5, kind, "") for kind in kinds])
    contact_sheet([row], tmp_path / "sheet.png", tile=TILE)
    pixels = drawn(tmp_path / "sheet.png")
    bottom = np.nonzero((pixels == BLUE).all(axis=-1).sum(axis=1) >= TILE[0])[0].max()
    legend = pixels[bottom + 24 :].reshape(-1, 3).astype(int)
    for colour, kind in ((GREEN, True), (RED, False), (GREY, None)):
        same = (np.abs(legend - colour).max(axis=-1) <= 3).sum()
        assert (same > 25) == (kind in kinds), colour
    assert (np.abs(legend - BLUE).max(axis=-1) <= 3).sum() > 60


def test_unreadable_and_missing_files_become_named_grey_tiles(tmp_path):
    query = photo(tmp_path / "query.png", (40, 60, 250))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    for file, name in ((broken, "broken"), (tmp_path / "missing.jpg", "missing")):
        row = SheetRow(query, "id_1", [SheetMatch(file, 0.7, False, "id_3")])
        contact_sheet([row], tmp_path / f"{name}.png", tile=TILE)
        pixels = drawn(tmp_path / f"{name}.png")
        place = left, top, right, bottom = box(pixels, GREY)
        assert (right - left, bottom - top) == (TILE[0] - 2 * FRAME, TILE[1] - 2 * FRAME)
        assert (ring(pixels, place, FRAME) == RED).all()
        # Grey, but for what is written on it below the badge.
        inner = pixels[top + 30 : bottom, left:right]
        assert 0.7 < (inner == GREY).all(axis=-1).mean() < 0.99 and inner.min() < 60


def test_letterboxed_and_turned_as_exif_says(tmp_path):
    """A wide photo, stored lying and marked as turned, stands upright between white bars."""
    halves = Image.new("RGB", (80, 40), (200, 0, 0))
    halves.paste((0, 0, 200), (0, 0, 40, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns the stored picture by 90 degrees clockwise
    halves.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    halves.save(tmp_path / "plain.jpg", quality=95)
    turned = pictures._photo(tmp_path / "turned.jpg", (80, 80))
    assert near(turned.getpixel((40, 10)), (0, 0, 200), 30)
    assert near(turned.getpixel((40, 70)), (200, 0, 0), 30)
    assert turned.getpixel((5, 40)) == WHITE and turned.getpixel((75, 40)) == WHITE
    plain = pictures._photo(tmp_path / "plain.jpg", (80, 80))
    assert near(plain.getpixel((10, 40)), (0, 0, 200), 30)
    assert plain.getpixel((40, 5)) == WHITE


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_kind_of_picture_is_drawn(tmp_path, mode):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    Image.new("RGB", (30, 30), (128, 128, 128)).convert(mode).save(path)
    tile = pictures._photo(path, (30, 30))
    assert tile.mode == "RGB" and tile.size == (30, 30)
    assert tile.getpixel((15, 15)) != GREY


def test_transparent_is_white_and_truncated_is_grey(tmp_path):
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures._photo(tmp_path / "clear.png", (30, 30)).getpixel((15, 15)) == WHITE
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    tile = pictures._photo(tmp_path / "half.jpg", (100, 100))
    assert tile.getpixel((2, 2)) == GREY


def test_long_labels_stay_in_their_column(tmp_path):
    files = [photo(tmp_path / f"{n}.png", (40, 60 + n, 250), (70, 90)) for n in range(4)]
    label = "a_very_long_item_name_" * 10 + "x"
    matches = [SheetMatch(file, 0.5, True, label) for file in files[1:]]
    contact_sheet([SheetRow(files[0], label, matches)], tmp_path / "s.png", tile=TILE)
    pixels = drawn(tmp_path / "s.png")
    boxes = [box(pixels, (40, 60 + n, 250)) for n in range(4)]
    for one, other in itertools.pairwise(boxes):
        bottom = one[3] + FRAME + 24
        assert pixels[one[3] + FRAME : bottom, one[0] - FRAME : one[2] + FRAME].min() < 120
        assert (pixels[one[1] : bottom, one[2] + FRAME : other[0] - FRAME] == WHITE).all()


def test_a_long_title_is_wrapped(tmp_path, figures):
    path = photo(tmp_path / "a.png", (40, 60, 250))
    title = "a title of many words that does not fit into one line of the picture " * 2
    for name, text in (("none", ""), ("long", title)):
        contact_sheet([SheetRow(path, "1", [])], tmp_path / f"{name}.png", text, tile=TILE)
    plain, titled = drawn(tmp_path / "none.png"), drawn(tmp_path / "long.png")
    start, place = (box(pixels, (40, 60, 250))[1] for pixels in (plain, titled))
    assert titled.shape[0] - plain.shape[0] == place - start > 60
    written = (titled[: place - start].min(axis=-1) < 120).any(axis=1)
    assert np.count_nonzero(np.diff(written.astype(int)) == 1) >= 3
    # Nothing runs out of the picture.
    assert titled[:, -8:].min() == 255
    recall_curve({"a": {1: 0.5}}, tmp_path / "curve.png", title)
    assert "\n" in figures[0].get_suptitle()


@pytest.mark.filterwarnings("error:Glyph")
def test_names_with_control_characters_are_drawn_as_others(tmp_path, figures):
    name = "a\rb\x1b[2J\udcff"
    path = photo(tmp_path / "a.png", (0, 0, 0))
    contact_sheet([SheetRow(path, name, [])], tmp_path / "s.png", name)
    recall_curve({name: {1: 0.5}}, tmp_path / "curve.png", name, {name: {1: 0.4}})
    labels = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert len(labels) == 2 and all(label.isprintable() for label in labels)


def test_sheet_bad_input_is_told(tmp_path):
    path = photo(tmp_path / "a.png", (0, 0, 0))
    with pytest.raises(FirError, match=r"must end in \.png.*sheet\.gif"):
        contact_sheet([SheetRow(path, "1", [])], tmp_path / "sheet.gif")
    with pytest.raises(FirError, match="at least one SheetRow"):
        contact_sheet([], tmp_path / "sheet.png")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, to look at what was drawn."""
    saved = []
    save = pictures._save
    monkeypatch.setattr(
        pictures, "_save", lambda figure, path: (saved.append(figure), save(figure, path))
    )
    return saved


def test_recall_curve_shows_ours_and_the_papers(tmp_path, figures):
    ours = {50: 0.95, 1: 0.7, 5: 0.86, 20: 0.92}
    paper = [row for row in PAPER_RESULTS if row.dataset == "inshop"]
    recall_curve({"ours $x$": ours}, tmp_path / "curve.png", "In-Shop", paper)
    axes = figures[0].axes[0]
    (line,) = axes.lines
    np.testing.assert_allclose(line.get_xydata(), sorted(ours.items()))
    assert line.get_marker() == "o"
    assert {text.get_text() for text in axes.texts} == {".700", ".860", ".920", ".950"}
    points = [points.get_offsets() for points in axes.collections]
    assert len(points) == 8
    for row, drawn in zip(paper, points, strict=True):
        np.testing.assert_allclose(drawn[:, 1], list(row.values.values()))
        assert np.abs(drawn[:, 0] - [5, 20]).max() < 1.5
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "ours $x$" and "ResNet50 OC+IS: @5 .826, @20 .905" in labels
    low, high = axes.get_ylim()
    assert low < 0.547 and high > 0.95
    with Image.open(tmp_path / "curve.png") as image:
        assert image.width > 1000 and image.height > 600
        blue = (np.asarray(image.convert("RGB")) == (0, 0x72, 0xB2)).all(axis=-1)
        assert blue.sum() > 1000


def test_recall_curve_takes_metric_names_and_plain_tables(tmp_path, figures):
    values = {"recall@1": 0.5, "recall@10": 0.8, "mAP@R": 0.3, "category_top3": 0.9}
    paper = {"them": {"recall@10": 0.7, "category_top3": 0.1}, "no recall": {"category_top5": 1.0}}
    recall_curve({"a": values, "b": values}, tmp_path / "curve.svg", "t", paper)
    axes = figures[0].axes[0]
    assert len(axes.lines) == 2 and len(axes.collections) == 1
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [(1, 0.5), (10, 0.8)])
    assert (tmp_path / "curve.svg").read_text().count("<svg") == 1
    recall_curve({"a": {1: 1.0}}, tmp_path / "curve.pdf", "t")
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(FirError, match="none for 'a'"):
        recall_curve({"a": {"mAP@R": 0.3}}, tmp_path / "curve.png", "t")
    with pytest.raises(FirError, match=r"\.png, \.pdf, \.svg. Received: .*curve$"):
        recall_curve({"a": values}, tmp_path / "curve", "t")


def test_training_curves(tmp_path, figures):
    rng = np.random.default_rng(0)
    steps = np.arange(1000)
    history = {
        "loss": list(zip(steps, 2 - steps / 1000 + 0.3 * rng.random(1000), strict=True)),
        "learning_rate": [(step, 1e-4 if step < 600 else 1e-6) for step in steps],
        "val/recall@1": [(500, 0.6), (0, 0.4)],
        "val/recall@5": [(0, 0.5), (500, 0.8)],
        "val/mAP@R": [(0, 0.2), (250, math.nan), (500, 0.3)],
        "never": [],
    }
    training_curves(history, tmp_path / "training.png")
    axes = {axes.get_title(loc="left"): axes for axes in figures[0].axes}
    assert list(axes) == ["loss", "learning_rate", "val/recall@k", "val/mAP@R"]
    noisy, mean = axes["loss"].lines
    assert noisy.get_alpha() < 1 and np.ptp(np.diff(mean.get_ydata())) < 0.1
    # A mean does not move the curve, and does not blur the steps of a schedule.
    assert np.abs(mean.get_ydata() - (2.15 - steps / 1000)).max() < 0.1
    assert axes["learning_rate"].get_yscale() == "log" and axes["loss"].get_yscale() == "linear"
    assert set(axes["learning_rate"].lines[0].get_ydata()) == {1e-4, 1e-6}
    recalls = axes["val/recall@k"]
    np.testing.assert_allclose(recalls.lines[0].get_xydata(), [(0, 0.4), (500, 0.6)])
    assert [text.get_text() for text in recalls.get_legend().get_texts()] == ["1", "5"]
    # The value that is no number is marked where it was.
    assert list(axes["val/mAP@R"].lines[1].get_xdata()) == [250, 250]
    assert axes["val/mAP@R"].get_title(loc="right") == "0.3"
    training_curves({}, tmp_path / "empty.png")
    training_curves({"loss": [(1, math.nan)]}, tmp_path / "nan.png")
    assert figures[2].axes[0].get_title(loc="right") == "no finite value"


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    recall_curve({"a": {1: 0.5}}, path, "t")
    before = path.read_bytes()
    monkeypatch.setattr(
        pictures.Figure, "savefig", lambda self, path, **_: (path.write_bytes(b"half"), 1 / 0)
    )
    with pytest.raises(ZeroDivisionError):
        recall_curve({"a": {1: 0.9}}, path, "t")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["curve.png"]


def test_drawn_in_a_thread_without_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    thread = threading.Thread(target=recall_curve, args=({"a": {1: 0.5}}, tmp_path / "a.png", "t"))
    thread.start()
    thread.join()
    assert (tmp_path / "a.png").is_file()
    assert dict(matplotlib.rcParams) == before
