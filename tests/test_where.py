"""Conditions: what they mean, how they are written as text, and that every engine agrees."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engines import INFO, SIZE, address, one_thread, unit  # noqa: F401

from fir_tf import Index
from fir_tf.errors import FirError
from fir_tf.search.columns import MOST_VALUES
from fir_tf.search.conditions import (
    OPERATORS,
    AllOf,
    AnyOf,
    Comparison,
    Filter,
    Known,
    Not,
    OneOf,
    check_columns,
    combined,
)
from fir_tf.search.engines import Record, open_engine
from fir_tf.search.where import parse

SHIRT = Record(
    "a.jpg",
    "shirt 1",
    "Shirts",
    "",
    "",
    {"price": 19.5, "sale": True, "brand": "A", "color": ["red", "blue"], "none": []},
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("price < 20", True),
        ("price >= 19.5 and price <= 19.5", True),
        ("price = 19.5 and not price != 19.5", True),
        ("price == 19.5 or missing = 1", True),
        ("price <> 19.5", False),
        ("price = '19.5'", False),
        ("price != '19.5'", True),
        ("sale = true", True),
        ("sale != TRUE", False),
        ("sale = 1", False),
        ("brand IN ('B', 'A')", True),
        ("brand not in ('B', 'C')", True),
        ("brand < 'B' AND 'category' is null", None),
        ("category = 'Shirts' and item > 'shirt'", True),
        ("domain = ''", False),
        ("domain is null and not (domain != 'shop')", True),
        ("color = 'red' and color = 'blue'", True),
        ("color != 'red'", False),
        ("color < 'z' or color > 'a'", False),
        ("none is not null and none != 'red' and not none = 'red'", True),
        ("missing = 1 or missing != 1 or missing < 1 or missing in (1)", False),
        ("missing not in (1)", False),
        ("not missing in (1)", True),
        # `and` binds stronger than `or`, `not` than both.
        ("price > 99 and sale = true or brand = 'A'", True),
        ("price > 99 and (sale = true or brand = 'A')", False),
        ("not price > 99 and brand = 'B'", False),
    ],
)
def test_what_holds_of_a_record(text, holds):
    if holds is None:
        with pytest.raises(FirError, match="a column must stand here, not 'category'"):
            parse(text)
    else:
        assert parse(text).allows(SHIRT) == holds


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("", "a column must stand here", 0),
        ("price <", "a value .* must stand here", 7),
        ("price < 5 5", "and, or, or the end must stand here, not 5", 10),
        ("(price < 5", r"a \) must stand here", 10),
        ("price < 'a", "this ' has no end", 8),
        ("price ~ 5", "this is not understood", 6),
        ("price = 1; drop table record", "this is not understood", 9),
        ("price = 1 -- more", "this is not understood", 10),
        ("price in ()", "a value .* must stand here, not \\)", 10),
        ("price in (1, 'a')", "must all be text, all numbers", 9),
        ("price between 1 and 2", "= != < <= > >=, in or is must stand here, not between", 6),
        ("sale > true", "compared by = and != only", 0),
        ("price = 1e999", "a number that is not as large", 8),
        ("price is 5", "null must stand here, not 5", 9),
        ("and = 5", "a column must stand here, not and", 0),
        ("price = 5px", "this is not understood", 8),
    ],
)
def test_the_place_of_a_mistake_is_shown(text, message, place):
    with pytest.raises(FirError, match=f"`where`: .*{message}") as caught:
        parse(text)
    shown, mark = str(caught.value).splitlines()[1:3]
    assert shown == f"  {text}" and mark.index("^") == place + 2


def test_a_question_of_a_thousand_levels_is_refused():
    with pytest.raises(FirError, match="more than 100 levels"):
        parse("(" * 1000 + "a = 1" + ")" * 1000)


def test_values_and_columns_in_quotes():
    record = Record("p", "", "", "", "", {"on sale, now": 'it\'s "new"', "größe": 38})
    assert parse("\"on sale, now\" = 'it''s \"new\"'").allows(record)
    assert parse('`on sale, now` = "it\'s ""new"""').allows(record)
    assert parse("größe = 38").allows(record)


def test_columns_are_checked():
    kinds = {"price": ["number"], "brand": ["text"]}
    check_columns(parse("price < 5 and brand = 'A' and category is null"), kinds)
    with pytest.raises(FirError, match="no column 'prize'. It has: brand, category, domain"):
        check_columns(parse("prize < 5"), kinds)
    with pytest.raises(FirError, match="`price` must be compared with number. Received: '5'"):
        check_columns(parse("not (brand = 'A' or price = '5')"), kinds)


def test_a_filter_is_a_condition():
    both = Filter(("Shirts", "Skirts"), ("shop",))
    assert Filter().allows(SHIRT) and Filter(("Shirts",)).allows(SHIRT) and not both.allows(SHIRT)
    assert combined(None, Filter()) is None and combined(Filter(), both) == both
    assert (Filter(("Shirts",)) & ~both).allows(SHIRT) and (both | Known("price")).allows(SHIRT)


# Homogeneous columns, as a feed has them.
TEXTS = st.text(st.sampled_from("ab'\"\\%_é\n"), max_size=3)
COLUMNS = {
    "price": st.floats(-5, 5, width=16) | st.integers(-3, 3),
    "sale": st.booleans(),
    "brand": TEXTS.filter(bool),
    "color": st.lists(TEXTS.filter(bool), max_size=3),
}
VALUES = {
    "price": st.floats(-5, 5, width=16) | st.integers(-3, 3),
    "sale": st.booleans(),
    **dict.fromkeys(("brand", "color", "item", "category"), TEXTS),
}


def _comparisons(column):
    signs = OPERATORS[:2] if column in ("sale", "color") else OPERATORS
    return st.builds(Comparison, st.just(column), st.sampled_from(signs), VALUES[column])


def _memberships(column):
    kind = st.booleans() if column == "sale" else VALUES[column]
    return st.builds(OneOf, st.just(column), st.lists(kind, max_size=3).map(tuple))


SIMPLE = st.one_of(
    *(_comparisons(column) for column in VALUES),
    *(_memberships(column) for column in VALUES),
    st.builds(Known, st.sampled_from([*VALUES, "nothing"])),
    st.builds(Filter, st.lists(TEXTS, max_size=2).map(tuple), st.just(())),
)
CONDITIONS = st.recursive(
    SIMPLE,
    lambda parts: st.one_of(
        st.builds(Not, parts),
        st.builds(AllOf, st.lists(parts, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(parts, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@st.composite
def tables(draw):
    rows = []
    for number in range(draw(st.integers(1, 12))):
        metadata = {name: draw(values) for name, values in COLUMNS.items() if draw(st.booleans())}
        rows.append(Record(f"{number:02d}.jpg", draw(TEXTS), draw(TEXTS), "shop", "sum", metadata))
    return rows


QUICKLY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.slow
def test_every_engine_allows_what_python_allows(address):  # noqa: F811
    vectors = unit(np.random.default_rng(0), 12)
    with open_engine(address, create=True) as engine:
        engine.set_info(INFO)

        @QUICKLY
        @given(tables(), st.lists(CONDITIONS, min_size=1, max_size=8))
        def check(rows, conditions):
            engine.delete([f"{number:02d}.jpg" for number in range(12)])
            engine.upsert(rows, vectors[: len(rows)])
            stored = {record.path: record for part, _ in engine.scan() for record in part}
            assert [stored[row.path] for row in rows] == rows
            for condition in conditions:
                hits = engine.search(vectors[:1], 12, condition)[0]
                wanted = sorted(row.path for row in rows if condition.allows(row))
                assert sorted(hit.record.path for hit in hits) == wanted, condition

        check()


@pytest.mark.slow
def test_a_filter_takes_no_place_among_the_results(address):  # noqa: F811
    """k results wherever k records are allowed, however few they are among all."""
    rng = np.random.default_rng(1)
    vectors, query = unit(rng, 4000), unit(rng, 1)
    rows = [
        Record(f"{n:05d}.jpg", "", "", "", "", {"price": float(n)}) for n in range(len(vectors))
    ]
    with open_engine(address, create=True) as engine:
        engine.set_info(INFO)
        engine.upsert(rows, vectors)
        engine.flush()
        for most in (2000, 200, 20, 2):
            hits = engine.search(query, 10, parse(f"price < {most}"))[0]
            best = np.argsort(-(vectors[:most] @ query[0]), kind="stable")[:10]
            assert [hit.record.path for hit in hits] == [rows[place].path for place in best]


def test_metadata_is_updated_without_the_vectors(address):  # noqa: F811
    vectors = unit(np.random.default_rng(2), 3)
    rows = [Record(f"{n}.jpg", "", "", "", "", {"price": n}) for n in range(3)]
    with open_engine(address, create=True) as engine:
        engine.set_info(INFO)
        engine.upsert(rows, vectors)
        new = Record("1.jpg", "one", "", "", "", {"price": 7, "title": "Größe ✓"})
        engine.update([new, Record("9.jpg", "", "", "", "")])
        assert len(engine) == 3
        (found, vector), (other, _) = engine.fetch(["1.jpg", "2.jpg"])
        assert found == new and other == rows[2]
        np.testing.assert_array_equal(vector, vectors[1])
        assert [h.record for h in engine.search(vectors[1:2], 3, parse("price > 2"))[0]] == [new]


def test_an_index_in_hand_is_asked_by_text():
    vectors = unit(np.random.default_rng(3), 60)
    metadata = {
        "price": [float(n) for n in range(59)] + [float("nan")],
        "brand": [None if n % 2 else "A" for n in range(60)],
        "sizes": [["s", "m"][: n % 3] for n in range(60)],
        "title": [f"number {n}" for n in range(60)],
    }
    with Index.from_arrays(vectors, metadata) as index:
        columns = index.engine.info()["columns"]
        assert columns["price"] == {"kinds": ["number"], "range": [0.0, 58.0]}
        assert columns["brand"] == {"kinds": ["text"], "values": {"A": 30}}
        assert columns["sizes"]["values"] == {"s": 40, "m": 20}
        assert len(metadata["title"]) > MOST_VALUES and columns["title"] == {"kinds": ["text"]}
        hits = index.search(vectors[3], 60, where="price < 10 and brand = 'A' and sizes = 'm'")
        assert sorted(hit.record.metadata["price"] for hit in hits) == [2, 8]
        with pytest.raises(FirError, match="the index has no column 'colour'"):
            index.search(vectors[3], where="colour = 'red'")
    for metadata, message in [
        ({'pr"ice': [1, 2, 3]}, "without quotes and backslashes"),
        ({"": [1, 2, 3]}, "a column of metadata must have a name other than"),
        ({"price": [object(), 1, 2]}, "`price` must hold text, numbers, bools or lists"),
        ({"price": [1, 2]}, "must have 3 rows"),
    ]:
        with pytest.raises(FirError, match=re.escape(message)):
            Index.from_arrays(vectors[:3], metadata)


def test_an_index_from_before_there_were_metadata(tmp_path):
    """The table gets its column, or, where it cannot be written to, an empty one to read."""
    import sqlite3

    folder = tmp_path / "index"
    vectors = unit(np.random.default_rng(4), 2)
    with open_engine(folder, create=True) as engine:
        engine.set_info(INFO)
        engine.upsert([Record(f"{n}.jpg", "", "", "", "") for n in range(2)], vectors)
    with sqlite3.connect(folder / "records.sqlite") as connection:
        connection.execute("ALTER TABLE record DROP COLUMN metadata")
    connection.close()
    assert vectors.shape[1] == SIZE
    with open_engine(folder) as engine:
        assert len(engine.search(vectors[:1], 2, parse("price is null"))[0]) == 2
        engine.update([Record("1.jpg", "", "", "", "", {"price": 3})])
    with open_engine(folder) as engine:
        assert len(engine.search(vectors[:1], 2, parse("price is null"))[0]) == 1
