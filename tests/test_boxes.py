"""Boxes: where in its photo a garment is, as lists, tables and feeds write it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import inshop_rows, write_inshop, write_jpeg

from fir_tf.datasets import load
from fir_tf.datasets.boxes import read_box, read_polygon
from fir_tf.datasets.loading import layout_of, load_unchecked
from fir_tf.datasets.published import PUBLISHED, Published
from fir_tf.datasets.sources import merge_training
from fir_tf.errors import FirError
from fir_tf.hygiene.check import check
from fir_tf.hygiene.prepare import prepare

NONE = [np.nan] * 4


def write_list(path, columns, rows):
    """Writes a list as DeepFashion publishes it: runs of blanks, numbers with zeros before them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows)), "  ".join(columns)]
    lines += ["      ".join(map(str, row)) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_table(root, header, *rows, name="photos.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join([header, *rows]) + "\n")
    return root / name


def boxes(catalogue):
    """{path: box}, None where there is none."""
    return {
        str(path): None if np.isnan(box).all() else box.tolist()
        for path, box in zip(catalogue.path, catalogue.box, strict=True)
    }


INSHOP = ("image_name", "clothes_type", "pose_type", "x_1", "y_1", "x_2", "y_2")


def test_inshops_list_is_read_by_name(inshop):
    names = [path for path, *_ in inshop_rows()]
    rows = [[name, 1 + n % 3, 1, f"{n:03d}", "007", 40 + n, "050"] for n, name in enumerate(names)]
    write_list(inshop / "Anno" / "list_bbox_inshop.txt", INSHOP, rows[:0:-1])
    catalogue = load("inshop", inshop)
    assert boxes(catalogue) == {
        names[0]: None,
        **{name: [n, 7, 40, 43] for n, name in enumerate(names) if n},
    }
    assert not catalogue.box_in_shares.any()
    assert catalogue.has_box().sum() == len(names) - 1
    assert catalogue.metadata(0) == {}
    types = [catalogue.metadata(row)["clothes_type"] for row in (1, 2, 3)]
    assert types == ["lower", "full", "upper"]
    assert any("without a box" in note and names[0] in note for note in catalogue.notes)
    assert f"boxes of {len(names) - 1} images" in catalogue.describe()
    # They go with their rows.
    assert boxes(catalogue.part("query"))[names[32]] == [32, 7, 40, 43]


def test_without_a_list_photos_are_whole(inshop):
    catalogue = load("inshop", inshop)
    assert np.isnan(catalogue.box).all() and catalogue.box.shape == (48, 4)
    assert "boxes" not in catalogue.describe()


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ("10 10 10 20", "two corners.*Received: 10 10 10 20"),
        ("10 10 20 nan", "two corners"),
        ("a 10 20 20", "two corners"),
        ("-9 -9 0 20", "two corners"),
        ("10 10 20", "7 columns"),
    ],
)
def test_a_box_that_is_none_is_named(inshop, corners, message):
    names = [path for path, *_ in inshop_rows()]
    rows = [[names[0], 1, 1, 1, 1, 9, 9], [names[1], 1, 1, *corners.split()]]
    write_list(inshop / "Anno" / "list_bbox_inshop.txt", INSHOP, rows)
    with pytest.raises(FirError, match=f"list_bbox_inshop.txt:4: .*{message}"):
        load("inshop", inshop)


def test_types_and_double_rows_are_checked(inshop):
    names = [path for path, *_ in inshop_rows()]
    path = inshop / "Anno" / "list_bbox_inshop.txt"
    write_list(path, INSHOP, [[names[0], 4, 1, 1, 1, 9, 9]])
    with pytest.raises(FirError, match=r"bbox_inshop.txt:3: `clothes_type` must be one of 1, 2, 3"):
        load("inshop", inshop)
    write_list(path, INSHOP, [[names[0], 1, 1, 1, 1, 9, 9]] * 2)
    with pytest.raises(FirError, match=r"bbox_inshop.txt:4: .* is listed already on line 3"):
        load("inshop", inshop)


def test_the_list_as_published_costs_a_warning_not_the_run(inshop, monkeypatch):
    names = [path for path, *_ in inshop_rows()]
    rows = [[name, 1, 1, 5, 5, 5 if n == 3 else 9, 9] for n, name in enumerate(names)]
    write_list(inshop / "Anno" / "list_bbox_inshop.txt", INSHOP, rows)
    monkeypatch.setitem(PUBLISHED, "inshop", Published("In-Shop", {"images": len(names)}))
    catalogue = load("inshop", inshop)
    assert [path for path, box in boxes(catalogue).items() if box is None] == [names[3]]
    (note,) = (note for note in catalogue.notes if "two corners" in note)
    assert note.startswith("warning: ") and ":6: " in note and "1 such images" in note


def test_boxes_of_the_small_images_are_not_those_of_the_large(inshop):
    names = [path for path, *_ in inshop_rows()]
    write_list(
        inshop / "Anno" / "list_bbox_inshop.txt", INSHOP, [[n, 1, 1, 1, 1, 9, 9] for n in names]
    )
    (inshop / "Img" / "img").rename(inshop / "Img" / "img_highres")
    catalogue = load("inshop", inshop)
    assert not catalogue.has_box().any()
    assert any("are of other images" in note for note in catalogue.notes)


def test_consumer2shop_tells_the_sides_apart(tmp_path):
    names = [f"img/A/B/id_{n:08d}/{side}_01.jpg" for n in range(2) for side in ("comsumer", "shop")]
    rows = [[*names[2 * n : 2 * n + 2], f"id_{n:08d}", ("train", "test")[n]] for n in range(2)]
    columns = ("image_pair_name_1", "image_pair_name_2", "item_id", "evaluation_status")
    write_list(tmp_path / "Eval" / "list_eval_partition.txt", columns, rows)
    for name in names:
        write_jpeg(tmp_path / "Img" / name)
    columns = ("image_name", "clothes_type", "source_type", "x_1", "y_1", "x_2", "y_2")
    path = tmp_path / "Anno" / "list_bbox_consumer2shop.txt"
    listed = [[name, 3, 2 - n % 2, 4, 5, 30 + n, 60] for n, name in enumerate(names)]
    write_list(path, columns, listed)
    catalogue = load("consumer2shop", tmp_path)
    assert boxes(catalogue) == {name: [4, 5, 26 + n, 55] for n, name in enumerate(names)}
    assert not any("source_type" in note for note in catalogue.notes)
    listed[1][2] = 2
    write_list(path, columns, listed)
    (note,) = (note for note in load("consumer2shop", tmp_path).notes if "source_type" in note)
    assert "1 images" in note and "consumer2shop.txt:4" in note and "partition.txt:3" in note


def test_the_category_benchmark_has_boxes_without_types(tmp_path):
    names = [f"img/Dress/img_{n:08d}.jpg" for n in range(3)]
    for name in names:
        write_jpeg(tmp_path / "Img" / name)
    anno = tmp_path / "Anno"
    write_list(anno / "list_category_cloth.txt", ("category_name", "category_type"), [["Dress", 3]])
    write_list(
        anno / "list_category_img.txt", ("image_name", "category_label"), [[n, 1] for n in names]
    )
    splits = [[name, split] for name, split in zip(names, ("train", "val", "test"), strict=True)]
    write_list(
        tmp_path / "Eval" / "list_eval_partition.txt", ("image_name", "evaluation_status"), splits
    )
    columns = ("image_name", "x_1", "y_1", "x_2", "y_2")
    write_list(anno / "list_bbox.txt", columns, [[n, "072", "079", "232", "273"] for n in names])
    catalogue = load("category", tmp_path)
    assert catalogue.box.tolist() == [[72, 79, 160, 194]] * 3
    assert not catalogue.columns


numbers = st.floats(0, 5000, allow_subnormal=False).map(lambda number: round(number, 3))


@given(st.lists(numbers, min_size=4, max_size=4), st.sampled_from(",; "), st.booleans())
def test_a_box_is_read_as_it_was_written(box, between, brackets):
    box[2:] = [number + 0.5 for number in box[2:]]
    text = between.join(map(repr, box))
    text = f"[{text}]" if brackets else text
    assert read_box("x:1", text) == (*box, False)
    assert read_box("x:1", list(map(repr, box))) == (*box, False)


@pytest.mark.parametrize("cell", ["", " ", "nan", "None", [], ["", "", "", ""], "[]", "-"])
def test_an_unknown_box_is_the_whole_photo(cell):
    assert read_box("x:1", cell) is None


@pytest.mark.parametrize(
    "cell",
    ["1,2,3", "1,2,3,4,5", "1,2,0,4", "1,2,3,-4", "1,2,nan,4", "1,2,inf,4", "a,b,c,d", 5, True]
    + ["-9,2,9,4", "1,-7,3,7", ["1", "2", "", "4"]],
)
def test_a_box_that_is_none_is_refused(cell):
    with pytest.raises(FirError, match=r"photos.csv:7: a box must be left,top,width,height"):
        read_box("photos.csv:7", cell)


def test_vertices_in_shares_and_in_pixels():
    # The two of Cloud Vision's own documentation, of one image of 20 x 20 pixels.
    shares = read_polygon("x:1", "0.25,0.25,0.25,0.75,0.75,0.75,0.75,0.25")
    assert shares == (0.25, 0.25, 0.5, 0.5, True)
    pixels = read_polygon("x:1", "5,5,5,15,15,15,15,5")
    assert pixels == (5, 5, 10, 10, False)
    assert [20 * number for number in shares[:4]] == list(pixels[:4])
    assert read_polygon("x:1", "0,0,1,1") == (0, 0, 1, 1, True)
    assert read_polygon("x:1", "") is None
    for wrong in ("0.1,0.2,0.5", "0.1,2,0.5,0.5", "1.5,2,7,9", "-1,2,7,9", "5,5,5,9", "0.1,b"):
        with pytest.raises(FirError, match="x:1: `bounding-poly` must be"):
            read_polygon("x:1", wrong)


def test_a_table_has_one_column_or_four(tmp_path):
    rows = ['a.jpg,x,"1,2,3,4.5"', "b.jpg,x,", "c.jpg,y,7 8 9 10"]
    path = write_table(tmp_path, "path,item,box", *rows)
    found = {"a.jpg": [1, 2, 3, 4.5], "b.jpg": None, "c.jpg": [7, 8, 9, 10]}
    assert boxes(load_unchecked("table", path, split_by_hash=False)) == found
    rows = ["a.jpg,1,2,3,4.5", "b.jpg,,,,", "c.jpg,7,8,9,10"]
    path = write_table(tmp_path, "path,box_left,box_top,box_width,box_height", *rows)
    catalogue = load_unchecked("table", path, split_by_hash=False)
    assert boxes(catalogue) == found and not catalogue.columns
    path = write_table(tmp_path, "path,X,y,w,H", *rows)
    columns = "box=x+Y+w+h"
    assert boxes(load_unchecked("table", path, columns, split_by_hash=False)) == found
    # A box elsewhere, and what is called box is something else.
    path = write_table(tmp_path, "path,box,bbox", "a.jpg,carton,1;2;3;4")
    catalogue = load_unchecked("table", path, "box=bbox", split_by_hash=False)
    assert boxes(catalogue) == {"a.jpg": [1, 2, 3, 4]}


def test_a_table_names_the_line(tmp_path):
    path = write_table(tmp_path, "path,box", "a.jpg,1 2 3 4", "b.jpg,1 2 0 4")
    with pytest.raises(FirError, match=r"photos.csv:3: a box must be .*Received: '1, 2, 0, 4'"):
        load_unchecked("table", path, split_by_hash=False)
    path = write_table(tmp_path, "path,box_left,box_top,box_width,box_height", "a.jpg,1,2,,4")
    with pytest.raises(FirError, match=r"photos.csv:2: a box must be"):
        load_unchecked("table", path, split_by_hash=False)
    path = write_table(tmp_path, "path,z", "a.jpg,1")
    with pytest.raises(FirError, match=r"a column `x\+y\+w\+h`, its box"):
        load_unchecked("table", path, "box=x+y+w+h", split_by_hash=False)


def test_parquet_has_lists_and_texts(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"path": ["a.jpg", "b.jpg"], "box": pa.array([[1.0, 2.0, 3.0, 4.0], None])}
    parquet.write_table(pa.table(columns), tmp_path / "photos.parquet")
    catalogue = load_unchecked("table", tmp_path / "photos.parquet", split_by_hash=False)
    assert boxes(catalogue) == {"a.jpg": [1, 2, 3, 4], "b.jpg": None}


def test_json_lines_and_further_photos(tmp_path):
    rows = [
        {"id": "1", "image_link": "a.jpg", "additional_image_link": ["b.jpg"], "box": [1, 2, 3, 4]},
        {"id": "2", "image_link": "c.jpg", "box": None},
    ]
    path = tmp_path / "feed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    catalogue = load_unchecked("feed", path, split_by_hash=False)
    # The box is that of the first photo of a row.
    assert boxes(catalogue) == {"a.jpg": [1, 2, 3, 4], "b.jpg": None, "c.jpg": None}
    path.write_text(path.read_text().replace("[1, 2, 3, 4]", "[1, 2, 3, 0]"))
    with pytest.raises(FirError, match=r"feed.jsonl:1: a box must be"):
        load_unchecked("feed", path, split_by_hash=False)


def test_product_searchs_polygons(tmp_path):
    rows = [
        'gs://b/a.jpg,1,s,p,c,,,"0.1,0.2,0.5,0.2,0.5,0.8,0.1,0.8"',
        'gs://b/b.jpg,2,s,p,c,,,"10,20,110,220"',
        "gs://b/c.jpg,3,s,p,c,,,",
    ]
    path = write_table(tmp_path, rows[0], *rows[1:], name="bulk.csv")
    catalogue = load_unchecked("feed", path, split_by_hash=False, with_addresses=True)
    np.testing.assert_allclose(
        catalogue.box, [[0.1, 0.2, 0.4, 0.6], [10, 20, 100, 200], NONE], rtol=1e-6
    )
    assert catalogue.box_in_shares.tolist() == [True, False, False]


def coco(**changes):
    """Two images, one with two garments, and one without any."""
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 7, "file_name": "x/a.jpg", "width": 100, "height": 50, "split": "train"},
            {"id": 8, "file_name": "b.jpg", "width": 100, "height": 50},
            {"id": 9, "file_name": "c.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "item": "tie"},
            {"id": 2, "image_id": 8, "category_id": 1, "bbox": [5.5, 6, 7, 8], "item": 12},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 40], "item": "coat"},
        ],
        "categories": [{"id": 1, "name": "outer"}, {"id": 2, "name": "small"}],
        **changes,
    }


@pytest.mark.parametrize("indent", [None, 1])
def test_coco_gives_the_largest_garment_of_an_image(tmp_path, indent):
    content = coco()
    for image in content["images"]:
        image["split"] = "train"
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content, indent=indent))
    assert layout_of(path) == "feed"
    catalogue = load_unchecked("feed", path)
    assert boxes(catalogue) == {
        "x/a.jpg": [0, 0, 30, 40],
        "b.jpg": [5.5, 6, 7, 8],
        "c.jpg": None,
    }
    assert [catalogue.items[item] if item >= 0 else "" for item in catalogue.item] == [
        "coat",
        "12",
        "",
    ]
    assert [catalogue.categories[one] if one >= 0 else "" for one in catalogue.category] == [
        "outer",
        "outer",
        "",
    ]
    assert any("1 photos stand in" in note for note in catalogue.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [200, 2, 3, 4]}, r"annotation 2 \(id 2\): `bbox` lies outside .* 100 x 50"),
        ({"bbox": [1, 2, 0, 4]}, r"annotation 2 \(id 2\): a box must be"),
        ({"image_id": 70}, r"annotation 2 \(id 2\): `image_id` must be that of an image.*70"),
        ({"category_id": 70}, r"annotation 2 \(id 2\): `category_id` must be"),
    ],
)
def test_coco_names_the_annotation(tmp_path, change, message):
    content = coco()
    content["annotations"][1].update(change)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FirError, match=f"instances.json: {message}"):
        load_unchecked("feed", path, split_by_hash=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(coco(images={})), "`images` must be a list of objects"),
        (json.dumps(coco(images=[{"file_name": "a.jpg"}])), "image 1: `id` must be"),
        (json.dumps(coco(), indent=1)[:-9], "must be one JSON object"),
    ],
)
def test_coco_that_is_damaged_is_refused(tmp_path, content, message):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(FirError, match=f"instances.json.*{message}"):
        load_unchecked("feed", path, split_by_hash=False)


def test_json_lines_with_words_of_coco_stay_json_lines(tmp_path):
    path = tmp_path / "feed.jsonl"
    path.write_text('{"info": {"a": 1}, "id": "1", "image_link": "a.jpg"}\n' * 1)
    assert load_unchecked("feed", path, split_by_hash=False).path.tolist() == ["a.jpg"]


def test_boxes_stay_with_their_photos_when_sources_are_merged(tmp_path):
    header, name = "path,item,split,box", ("a", "b")
    for folder in name:
        for view in range(2):
            write_jpeg(tmp_path / folder / f"{folder}{view}.jpg")
    first = write_table(tmp_path / "a", header, "a0.jpg,x,train,1 2 3 4", "a1.jpg,y,query,")
    second = write_table(tmp_path / "b", header, "b0.jpg,x,query,", "b1.jpg,y,train,5 6 7 8")
    merged = merge_training(load("table", first), [("b", load("table", second))])
    assert boxes(merged) == {"a/a0.jpg": [1, 2, 3, 4], "a/a1.jpg": None, "b/b1.jpg": [5, 6, 7, 8]}


def test_a_training_copy_keeps_its_boxes_at_its_size(tmp_path):
    root, header = tmp_path / "photos", "path,item,split,box"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    write_jpeg(root / "a.jpg", 1, (200, 100))
    write_jpeg(root / "b.jpg", 2, (100, 200), exif=exif)
    write_jpeg(root / "c.jpg", 3, (40, 30))
    rows = ["a.jpg,x,train,20 10 80 60", "b.jpg,x,train,20 10 80 60", "c.jpg,y,query,"]
    path = write_table(root, header, *rows)
    prepare(load("table", path), tmp_path / "copy", max_side=100, workers=1)
    copy = load("table", tmp_path / "copy" / "catalogue.csv")
    assert list(boxes(copy).values()) == [[10, 5, 40, 30], [10, 5, 40, 30], None]
    for found in copy.files()[:2]:
        with Image.open(found) as image:
            assert image.size == (100, 50)


def test_a_set_without_images_of_its_list_is_not_touched(tmp_path):
    root = write_inshop(tmp_path / "x", inshop_rows())
    write_list(root / "list_bbox_inshop.txt", INSHOP, [["img/other.jpg", 1, 1, 1, 1, 9, 9]])
    assert not load("inshop", root).has_box().any()


def test_check_names_boxes_outside_of_their_photos(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    for name, options in (("a", {}), ("b", {"exif": exif}), ("c", {})):
        write_jpeg(tmp_path / f"{name}.jpg", ord(name), (100, 200), **options)
    rows = ["a.jpg,x,train,100 10 80 60", "b.jpg,x,train,150 10 80 60", "c.jpg,y,query,"]
    path = write_table(tmp_path, "path,item,split,box", *rows)
    (finding,) = (one for one in check(load("table", path), workers=1) if one.name == "box")
    assert finding.severity == "error" and finding.text.startswith("1 box has no area")
    (example,) = finding.examples
    assert example.rows == (0,) and "photo of 100 x 200 pixels" in example.detail
