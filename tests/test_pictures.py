"""The pictures say what they should: colours of frames, marks, curves, tiles of broken files."""

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
    QUERY_COLOUR,
    RIGHT_COLOUR,
    UNREADABLE_COLOUR,
    WRONG_COLOUR,
    Match,
    SheetLayout,
    SheetRow,
    contact_sheet,
    recall_curve,
    training_curves,
)

TILE = (80, 100)
WHITE = (255, 255, 255)


def photo(path, colour, size=(60, 80), **options):
    Image.new("RGB", size, colour).save(path, **options)
    return path


def near(pixel, colour, tolerance=12):
    return max(abs(a - b) for a, b in zip(pixel, colour, strict=True)) <= tolerance


@pytest.fixture
def sheet(tmp_path):
    """Two queries, one with three matches (right, wrong, broken), one with a single match."""
    blue = photo(tmp_path / "query.png", (10, 20, 200))
    yellow = photo(tmp_path / "shirt.png", (230, 220, 20))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    rows = [
        SheetRow(
            blue,
            "id_1",
            [
                Match(yellow, 0.91, True, "id_1"),
                Match(yellow, 0.8, False, "id_2"),
                Match(broken, 0.7, None, "id_3"),
            ],
        ),
        SheetRow(blue, "id_4", [Match(tmp_path / "missing.jpg", 0.5, False, "id_5")]),
    ]
    contact_sheet(rows, tmp_path / "out" / "sheet.png", "a title", tile=TILE)
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        image.load()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]
    return image, SheetLayout(TILE, 2, 3, 1)


def test_frames_have_the_right_colours(sheet):
    image, layout = sheet
    assert image.size == layout.size
    expected = {
        (0, 0): QUERY_COLOUR,
        (0, 1): RIGHT_COLOUR,
        (0, 2): WRONG_COLOUR,
        (0, 3): UNREADABLE_COLOUR,
        (1, 0): QUERY_COLOUR,
        (1, 1): WRONG_COLOUR,
        # The second query has one match only.
        (1, 2): WHITE,
        (1, 3): WHITE,
    }
    for place, colour in expected.items():
        left, top = layout.corner(*place)
        for x, y in [(0, 0), (TILE[0] - 1, 0), (0, TILE[1] - 1), (TILE[0] // 2, 2)]:
            assert image.getpixel((left + x, top + y)) == colour, place
    assert near(RIGHT_COLOUR, (0, 128, 0), 60) and near(WRONG_COLOUR, (220, 20, 40), 60)


def test_photos_stand_inside_their_frames(sheet):
    image, layout = sheet
    middle = TILE[0] // 2, TILE[1] // 2
    for place, colour in {(0, 0): (10, 20, 200), (0, 1): (230, 220, 20)}.items():
        left, top = layout.corner(*place)
        assert near(image.getpixel((left + middle[0], top + middle[1])), colour)


def test_marks_can_be_read_without_colours(sheet):
    """A check mark and a cross: white strokes of other shapes on the badge."""
    image, layout = sheet
    size = layout.badge

    def strokes(row, column):
        left, top = layout.badge_corner(row, column)
        badge = image.crop((left, top, left + size, top + size))
        inner = np.asarray(badge.convert("L"))[5:-5, 5:-5]
        return inner > 200

    check, cross = strokes(0, 1), strokes(0, 2)
    assert 0.1 < check.mean() < 0.5 and 0.1 < cross.mean() < 0.5
    # The cross has a stroke from corner to corner through the middle; the check mark has none
    # in its upper left quarter.
    half = len(check) // 2
    assert cross[half, half] and cross[:half, :half].any()
    assert not check[: half - 1, : half - 1].any()
    np.testing.assert_array_equal(cross, strokes(1, 1))


def test_unreadable_and_missing_files_become_named_grey_tiles(sheet):
    image, layout = sheet
    for place in ((0, 3), (1, 1)):
        left, top = layout.corner(*place)
        inset = SheetLayout.frame
        inner = np.asarray(
            image.crop(
                (left + inset, top + TILE[1] // 3, left + TILE[0] - inset, top + TILE[1] - inset)
            )
        )
        grey = (inner == UNREADABLE_COLOUR).all(axis=-1).mean()
        # Grey, but for the name written on it.
        assert 0.7 < grey < 0.99
        assert inner.min() < 60


def test_captions_are_written(sheet):
    image, layout = sheet
    for place, wanted in {(0, 0): True, (0, 1): True, (1, 1): True, (1, 2): False}.items():
        left, top = layout.corner(*place)
        below = image.crop((left, top + TILE[1], left + TILE[0], top + TILE[1] + 22))
        assert (np.asarray(below).min() < 120) == wanted
    assert np.asarray(image.crop((0, 0, image.width, 40))).min() < 60
    legend = image.crop((0, image.height - 50, image.width, image.height))
    colours = {pixel for _, pixel in legend.getcolors(10**6)}
    for colour in (QUERY_COLOUR, RIGHT_COLOUR, WRONG_COLOUR):
        assert any(near(pixel, colour) for pixel in colours)


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
    drawn = pictures._photo(path, (30, 30))
    assert drawn.mode == "RGB" and drawn.size == (30, 30)
    assert drawn.getpixel((15, 15)) != UNREADABLE_COLOUR


def test_transparent_is_white_and_truncated_is_grey(tmp_path):
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures._photo(tmp_path / "clear.png", (30, 30)).getpixel((15, 15)) == WHITE
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    tile = pictures._photo(tmp_path / "half.jpg", (100, 100))
    assert tile.getpixel((2, 2)) == UNREADABLE_COLOUR


def test_long_labels_stay_in_their_column(tmp_path):
    path = photo(tmp_path / "a.png", (0, 0, 0))
    label = "a_very_long_item_name_" * 10 + "x"
    contact_sheet(
        [SheetRow(path, label, [Match(path, 0.5, True, label)] * 3)],
        tmp_path / "s.png",
        label,
        tile=TILE,
    )
    with Image.open(tmp_path / "s.png") as image:
        layout = SheetLayout(TILE, 1, 3, 1)
        assert image.size == layout.size
        left, top = layout.corner(0, 1)
        gap = image.crop((left + TILE[0], top, left + TILE[0] + layout.gap, top + TILE[1] + 25))
        assert set(gap.getcolors(10**5)[0][1]) == {255} and len(gap.getcolors(10**5)) == 1


def test_a_long_title_is_wrapped(tmp_path, figures):
    path = photo(tmp_path / "a.png", (0, 0, 0))
    title = "a title of many words that does not fit into one line of the picture " * 2
    contact_sheet([SheetRow(path, "1", [])], tmp_path / "s.png", title, tile=TILE)
    with Image.open(tmp_path / "s.png") as image:
        layout = SheetLayout(TILE, 1, 0, (image.height - SheetLayout(TILE, 1, 0, 0).size[1]) // 24)
        assert layout.title_lines >= 3 and image.size == layout.size
        assert image.getpixel(layout.corner(0, 0)) == QUERY_COLOUR
        # Nothing runs out of the picture.
        assert np.asarray(image)[:, -layout.margin // 2 :].min() == 255
    recall_curve({"a": {1: 0.5}}, tmp_path / "curve.png", title)
    assert "\n" in figures[0].get_suptitle()


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
