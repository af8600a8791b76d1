"""Own columns: filtered as plain Python filters the records, on a directory and on a server, with and without index."""

import operator
import re
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from standin import Standin
from standin_rest_calls import RestCalls

from cbmir.errors import FilterError, StoreError
from cbmir.filters import Condition, check_column, engine_key, parse, resolve
from cbmir.store import open_store

VALUES = [
    {"scanner": "Siemens", "kvp": 120, "dose": "1.50", "Slice Thickness (mm)": 2.5, "codes": ["a", "b"]},
    {"scanner": "GE", "kvp": 80.5, "dose": "2", "Slice Thickness (mm)": 5, "codes": ["b"]},
    {"scanner": "GE Medical", "kvp": 120.0, "dose": "n/s", "site": "A|B", "codes": []},
    {"scanner": "siemens", "kvp": 140, "dose": "10", "site": "A", "Größe": "groß"},
    {"scanner": "Siemens", "mixed": "120", "dose": "-3"},
    {"mixed": 120, "dose": "1e1", "site": "C"},
    {"mixed": 7.25, "a.b": "dot", "a=b": "sign"},
    {},
]
TEXTS = [
    "scanner=Siemens",
    "extra.scanner=Siemens",
    "scanner=Siemens|GE",
    "scanner!=Siemens",
    "scanner!=Siemens|GE",
    "scanner~siem*",
    "scanner~GE*|siemens",
    "kvp=120",
    "kvp=120|140",
    "kvp!=120",
    "kvp<120",
    "kvp<=120",
    "kvp>80.5",
    "kvp>=80.5",
    "kvp>1000",
    "kvp~12*",
    "dose>1.5",
    "dose<=2",
    "dose=10",
    "dose>99",
    "mixed=120",
    "mixed>100",
    "mixed<100",
    "mixed!=120",
    "Slice Thickness (mm)>=5",
    "codes=b",
    "codes!=a",
    "codes~B",
    r"site=A\|B",
    "Größe=groß",
    "a.b=dot",
    "extra.a.b=dot",
    '"a=b"=sign',
    'extra."a=b"!=sign',
]
INDEXES = {
    "scanner": "keyword",
    "kvp": "float",
    "dose": "keyword",
    "mixed": "keyword",
    "Slice Thickness (mm)": "float",
    "codes": "keyword",
    "site": "keyword",
    "Größe": "keyword",
    "a.b": "keyword",
    "a=b": "keyword",
}


def images(make_batch):
    batch = make_batch(len(VALUES))
    return replace(
        batch, records=tuple(replace(record, extra=value) for record, value in zip(batch.records, VALUES, strict=True))
    )


@pytest.fixture(scope="module", params=["directory", "directory-index", "server", "server-index", "rest-index"])
def collection(request, tmp_path_factory, make_batch, card):
    place, _, index = request.param.partition("-")
    folder = tmp_path_factory.mktemp("own")
    with ExitStack() as stack:
        if place != "directory":
            handler = RestCalls if place == "rest" else None
            standin = stack.enter_context(Standin(folder, "a-key", strict=False, rest_handler=handler))
            transport = "rest" if place == "rest" else "grpc"
            store = stack.enter_context(open_store(standin.url, "a-key", transport=transport))
        else:
            store = stack.enter_context(open_store(folder))
        with store.create("own", card) as made:
            for name, kind in INDEXES.items() if index else ():
                made.make_index(f"extra.{name}", kind)
            made.upsert(images(make_batch))
            yield made


def number(value):
    if isinstance(value, int | float):
        return float(value)
    return float(value) if re.fullmatch(r"-?\d+(\.\d+)?(e\d+)?", value) else None


def passes(extra, text):
    """What a reader would expect, in plain Python."""
    condition = parse(text)
    held = extra.get(condition.field.removeprefix("extra."), [])
    held = held if isinstance(held, list) else [held]
    compare = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}.get(condition.op)
    if compare:
        return any(number(value) is not None and compare(number(value), condition.values[0]) for value in held)
    if condition.op == "~":
        return any(
            fnmatchcase(f"{value:g}".lower() if not isinstance(value, str) else value.lower(), glob.lower())
            for value in held
            for glob in condition.values
        )
    same = any(
        value == wanted if isinstance(value, str) else number(wanted) == value
        for value in held
        for wanted in condition.values
    )
    return same != (condition.op == "!=")


@pytest.mark.parametrize("text", TEXTS)
def test_resolve__own_columns_as_plain_python_filters_them(collection, make_batch, text):
    records = images(make_batch).records
    wanted = {record.id for record in records if passes(record.extra, text)}
    where = resolve((parse(text),), collection)
    found = {point.id for points in collection.scroll(where, fields=False) for point in points}
    assert found == wanted
    assert collection.count(where) == len(wanted)
    if wanted:
        hits = collection.query(images(make_batch).vectors[0], 20, where)
        assert {hit.id for hit in hits} == wanted


def test_resolve__with_a_payload_field(collection, make_batch):
    where = resolve((parse("scanner=Siemens"), parse("modality=CT")), collection)
    wanted = [r for r in images(make_batch).records if r.extra.get("scanner") == "Siemens" and r.modality == "CT"]
    assert collection.count(where) == len(wanted) > 0


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("scaner=GE", "scanner"),
        ("extra.scaner=GE", "scanner"),
        ("Modality=CT", "modality"),
        ("KVP>100", "kvp"),
        ("slice thickness>1", "Slice Thickness (mm)"),
    ],
)
def test_resolve__an_unknown_name_names_the_nearest(collection, text, near):
    with pytest.raises(FilterError, match=f"no field or column .* in own; did you mean .*{re.escape(near)}"):
        resolve((parse(text),), collection)


def test_resolve__a_name_near_nothing_names_all_there_are(collection):
    with pytest.raises(
        FilterError, match=r"'qqqqqq' in own; own columns are .*scanner.*; payload fields are .*modality"
    ):
        resolve((parse("qqqqqq=1"),), collection)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("scanner=Philips", "no scanner 'Philips' in own; there are .*Siemens"),
        ("scanner=GE|Philips", "no scanner 'Philips'"),
        ("scanner~phil*", "no scanner 'phil\\*'"),
        ("kvp=121", "no kvp '121' in own; there are .*140"),
        ("scanner<5", "the column scanner holds no numbers but .*; it takes = != ~, not <"),
        ("site=A|B", "may mean the stored value 'A.B' or any of A, B"),
    ],
)
def test_resolve__an_unfit_value_of_an_own_column(collection, text, reason):
    with pytest.raises(FilterError, match=reason):
        resolve((parse(text),), collection)


@pytest.mark.parametrize("text", ["scanner<GE", "kvp<nan", "extra.=3"])
def test_parse__unfit_conditions_on_own_columns(text):
    with pytest.raises(FilterError):
        parse(text)


@pytest.mark.parametrize("name", ['say "x"', "back\\slash"])
def test_engine_key__names_that_the_engines_cannot_take(name):
    with pytest.raises(FilterError, match="takes no quotation mark and no backslash"):
        engine_key(f"extra.{name}")


def test_check_column__payload_fields_and_own_columns(collection):
    for name in ("scanner", "extra.scanner", "sex", "a=b"):
        check_column(name, collection)


def test_own_index__only_where_it_holds_all_values(collection):
    kinds = {name: collection.own_index(f"extra.{name}") for name in INDEXES}
    if any(kinds.values()):
        assert kinds == {**INDEXES, "mixed": None}


def test_own_values__payload_of_every_kind(edge, card, make_batch):
    batch = make_batch(4)
    values = [{"x": True}, {"x": {"deep": 1}}, {"x": None}, {"x": [1, "1", [2.5], False]}]
    records = tuple(replace(record, extra=extra) for record, extra in zip(batch.records, values, strict=True))
    with edge.create("odd", card) as made:
        made.upsert(replace(batch, records=records))
        assert dict(made.own_values("extra.x")) == {1: 1, "1": 1, 2.5: 1}
        assert dict(made.own_columns()) == {"x": 4}


def test_make_index__of_another_kind_replaces_it(collection):
    if collection.own_index("extra.scanner"):
        collection.make_index("extra.scanner", "float")
        assert collection.own_index("extra.scanner") is None
        collection.make_index("extra.scanner", "keyword")
        assert collection.own_index("extra.scanner") == "keyword"


def test_server__in_strict_mode_an_own_column_needs_an_index(tmp_path, card, make_batch):
    with (
        Standin(tmp_path, "a-key") as standin,
        open_store(standin.url, "a-key") as store,
        store.create("own", card) as made,
    ):
        made.upsert(images(make_batch))
        where = resolve((parse("scanner=GE"),), made)
        with pytest.raises(StoreError, match=r"Index required.*cbmir collections index NAME COLUMN"):
            made.count(where)
        made.make_index("extra.scanner", "keyword")
        assert made.count(resolve((parse("scanner=GE"),), made)) == 1


def test_condition__hashes_and_compares_with_its_texts():
    assert Condition("extra.x", "<", (1.0,), also=("0",)) != Condition("extra.x", "<", (1.0,))
