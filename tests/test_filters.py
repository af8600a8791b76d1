"""The filter language: what it reads, what it refuses, and what it says then."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbmir.aliases import ALIASES
from cbmir.errors import FilterError, RecordError
from cbmir.evaluate.protocol import wording
from cbmir.filters import NAMED, Condition, any_of, not_of, parse, resolve, scope_of, to_edge, to_qdrant
from cbmir.fingerprint import external_card
from cbmir.schema import FIELDS, INDEXED_FIELDS, canonical, point_id


class Stored:
    """A collection with one image a value; `resolve` asks for no more than this."""

    name = "shelf"

    def __init__(self, **values: list[str]) -> None:
        self.values = values

    def holds(self, field, value):
        return value in self.values.get(field, [])

    def stored_values(self, field):
        return self.facet(field)

    def recount(self):
        pass

    def facet(self, field, *, limit=100_000):
        return dict.fromkeys(self.values.get(field, [])[:limit], 1)

    def spellings(self):
        return {}

    def own_index(self, field):
        return None

    def own_values(self, field):
        return {}

    def own_columns(self):
        return ["scanner"]

    def read_columns(self):
        return {"alter": "age_years", "cardiomegaly": "label"}


# parse


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("sex=F", Condition("sex", "=", ("F",))),
        ("  sex =  F ", Condition("sex", "=", ("F",))),
        ("age_years<60", Condition("age_years", "<", (60.0,))),
        ("age_years <= 60.5", Condition("age_years", "<=", (60.5,))),
        ("width>=512", Condition("width", ">=", (512,))),
        ("width=512|1024", Condition("width", "=", (512, 1024))),
        ("view!=lateral", Condition("view", "!=", ("lateral",))),
        ("modality=ct|mr", Condition("modality", "=", ("CT", "MR"))),
        ("anatomic_region=Left Hand", Condition("anatomic_region", "=", ("left_hand",))),
        ("labels=xr/Chest/Pleural Effusion", Condition("labels", "=", ("XR/chest/pleural_effusion",))),
        ("labels~XR/chest/*", Condition("labels", "~", ("XR/chest/*",))),
        ("labels~*effusion | *mass", Condition("labels", "~", ("*effusion", "*mass"))),
        ("study_date<2020-01-05", Condition("study_date", "<", ("2020-01-05T00:00:00",))),
        ("study_date<20200105", Condition("study_date", "<", ("2020-01-05T00:00:00",))),
        ("study_date>2020-01-05T10", Condition("study_date", ">", ("2020-01-05T10:00:00",))),
        ("study_date>2020-01-05T10:30+02:00", Condition("study_date", ">", ("2020-01-05T10:30:00+02:00",))),
        ("patient_id=a=b<c", Condition("patient_id", "=", ("a=b<c",))),
        ("sex ==", Condition("sex", "=", ("=",))),
    ],
)
def test_parse__reads(text, condition):
    assert parse(text) == condition


@pytest.mark.parametrize("text", ["", "sex", "sex=", "=F", "sex F", "\n", '"=1', '""=1'])
def test_parse__what_is_no_condition(text):
    with pytest.raises(FilterError, match="can't read the condition"):
        parse(text)


@pytest.mark.parametrize("field", ["filepath", "extra", "thumbnail_url", "id", "decoder"])
def test_parse__a_field_that_cannot_be_filtered_by_names_those_that_can(field):
    with pytest.raises(FilterError) as caught:
        parse(f"{field}=x")
    assert repr(field) in str(caught.value)
    assert all(item.name in str(caught.value) for item in INDEXED_FIELDS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sex<F", "sex is a keyword field; it takes = != ~, not <"),
        ("width~5*", "width is a integer field; it takes = != < <= > >=, not ~"),
        ("study_date~2020*", "study_date is a datetime field"),
        ("width=wide", "width takes a whole number of at most 64 bits, not 'wide'"),
        ("width<10.5", "not '10.5'"),
        ("width<99999999999999999999", "at most 64 bits"),
        ("age_years<old", "age_years takes a finite number such as 58 or 2.5, not 'old'"),
        ("age_years<nan", "takes a finite number"),
        ("age_years<inf", "takes a finite number"),
        ("study_date<yesterday", "study_date takes an ISO date such as 2020-01-31, not 'yesterday'"),
        ("study_date<2020-13-01", "takes an ISO date"),
        ("labels=XR//x", "has an empty part"),
        ("sex==F", "write one = between field and value"),
        ("test", "write split=test"),
        ("validation", "write split=val"),
    ],
)
def test_parse__unfit_operators_and_values(text, reason):
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_parse__reads_or_refuses_anything(text):
    try:
        condition = parse(text)
    except FilterError:
        return
    assert condition.field in FIELDS or condition.field.startswith("extra.")
    assert condition.values


@given(
    field=st.sampled_from(["patient_id", "view", "study_id"]),
    op=st.sampled_from(["=", "!="]),
    values=st.lists(
        st.text(alphabet="abcXYZ0189._- /", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4
    ),
)
def test_parse__round_trip(field, op, values):
    assert parse(f"{field}{op}{'|'.join(values)}") == Condition(field, op, tuple(values))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse__round_trip_of_numbers(value):
    assert parse(f"age_years<={value!r}").values == (value,)


@given(st.datetimes())
def test_parse__round_trip_of_dates(value):
    assert parse(f"study_date>={value.isoformat()}").values == (value.isoformat(),)


# conditions


def test_condition__id_takes_equals_only():
    assert Condition("id", "!=", ("x",)).values == ("x",)
    with pytest.raises(FilterError, match="id takes = and !=, not <"):
        Condition("id", "<", ("x",))


@pytest.mark.parametrize(("op", "values"), [("<", (1, 2)), ("=", ()), ("<", ())])
def test_condition__needs_one_value(op, values):
    with pytest.raises(FilterError, match="needs one value"):
        Condition("width", op, values)


def test_any_of__none_for_no_value():
    assert any_of("modality", []) == ()
    assert any_of("modality", ["ct", "mr"]) == (Condition("modality", "=", ("CT", "MR")),)


@given(st.sampled_from(["modality", "anatomic_region", "pathology", "labels", "view"]), st.text(max_size=20))
def test_canonical__idempotent(field, text):
    try:
        once = canonical(field, text)
    except RecordError:  # a label with an empty part
        return
    assert canonical(field, once) == once


# resolve


def test_resolve__a_value_that_exists_stays():
    where = (parse("modality=ct"), parse("modality!=CT"), parse("age_years<5"), Condition("id", "!=", ("x",)))
    assert resolve(where, Stored(modality=["CT"])) == where


def test_resolve__globs_become_the_values_that_exist():
    stored = Stored(labels=["XR/chest/mass", "XR/hand/fracture", "CT/chest/mass"])
    assert resolve((parse("labels~XR/*"),), stored) == (
        Condition("labels", "=", ("XR/chest/mass", "XR/hand/fracture")),
    )
    assert resolve((parse("labels~*MASS"),), stored)[0].values == ("XR/chest/mass", "CT/chest/mass")
    assert resolve((parse("labels~*hand*|ct/*"),), stored)[0].values == ("XR/hand/fracture", "CT/chest/mass")


def test_resolve__glob_pays_no_heed_to_case_and_spaces():
    assert resolve((parse("view~*Left lat*"),), Stored(view=["LEFT Lateral"]))[0].values == ("LEFT Lateral",)


@pytest.mark.parametrize("text", ["modality=PT", "modality!=PT", "modality=CT|PT", "modality~P*"])
def test_resolve__an_unknown_value_names_those_there_are(text):
    with pytest.raises(FilterError, match=r"no modality 'P[T*]' in shelf; there are CT, MR$"):
        resolve((parse(text),), Stored(modality=["CT", "MR"]))


def test_resolve__a_field_nobody_has():
    with pytest.raises(FilterError, match="no image of shelf has the field view"):
        resolve((parse("view=ap"),), Stored(modality=["CT"]))


def test_resolve__names_some_of_many():
    with pytest.raises(FilterError) as caught:
        resolve((parse("patient_id=x"),), Stored(patient_id=[f"p{i}" for i in range(50)]))
    assert f"p{NAMED - 1}, ..." in str(caught.value)
    assert f"p{NAMED}" not in str(caught.value)


# engines


def test_to_edge_and_to_qdrant__nothing_is_no_filter():
    assert to_edge(()) is None
    assert to_qdrant(()) is None


def test_to_qdrant__one_filter_for_all_conditions():
    made = to_qdrant((parse("sex=F"), parse("view!=pa"), parse("age_years=8|70"), Condition("id", "!=", ("x",))))
    assert made is not None
    assert [made.must[0].key, made.must[0].match.any] == ["sex", ["F"]]
    assert [(item.range.gte, item.range.lte) for item in made.must[1].should] == [(8.0, 8.0), (70.0, 70.0)]
    assert made.must_not[0].key == "view"
    assert made.must_not[1].has_id == ["x"]


@pytest.mark.parametrize("build", [to_edge, to_qdrant])
def test_to_engine__an_unresolved_glob_is_refused(build):
    with pytest.raises(FilterError, match="was not resolved"):
        build((parse("labels~XR/*"),))


def filled_with(edge, make_batch, values):
    """A collection of images with these payload fields, as an older cbmir or another program may have stored them."""
    batch = make_batch(len(values))
    stored = tuple(replace(record, **fields) for record, fields in zip(batch.records, values, strict=True))
    collection = edge.create("older", external_card("eight", 8))
    collection.upsert(replace(batch, records=stored))
    return collection


def test_resolve__a_stored_value_that_holds_a_bar(edge, make_batch):
    with filled_with(edge, make_batch, [{"patient_id": "A|B"}, {"patient_id": "C"}, {"patient_id": "D"}]) as collection:
        for text in ("patient_id=A|B", r"patient_id=A\|B", r"patient_id=A\|B|A\|B"):
            assert collection.count(resolve((parse(text),), collection)) == 1, text
        assert collection.count(resolve((parse("patient_id!=A|B"),), collection)) == 2
        assert collection.count(resolve((parse(r"patient_id=A\|B|C"),), collection)) == 2
        assert collection.count(resolve((parse("patient_id=C|D"),), collection)) == 2
        with pytest.raises(FilterError, match="no patient_id 'E' in older; there are"):
            resolve((parse("patient_id=C|E"),), collection)


def test_resolve__a_bar_that_may_be_meant_either_way_is_refused(edge, make_batch):
    with filled_with(edge, make_batch, [{"patient_id": "A|B"}, {"patient_id": "A"}]) as collection:
        with pytest.raises(FilterError, match=r"write 'patient_id=A\\\|B' for the one, 'patient_id~A\|B' for any"):
            resolve((parse("patient_id=A|B"),), collection)
        assert collection.count(resolve((parse(r"patient_id=A\|B"),), collection)) == 1
        assert collection.count(resolve((parse("patient_id~A|B"),), collection)) == 1


def test_resolve__modalities_in_the_spellings_that_are_stored(edge, make_batch):
    values = [
        {"modality": "MRI", "labels": ("MRI/brain/glioma",)},
        {"modality": "MR", "labels": ("MR/brain/glioma",)},
        {"modality": "CT", "labels": ("CT/brain/glioma",)},
    ]
    with filled_with(edge, make_batch, values) as collection:
        for text in ("modality=MRI", "modality=mr", "modality=Magnetic Resonance", "labels=MRI/brain/Glioma"):
            assert collection.count(resolve((parse(text),), collection)) == 2, text
        assert collection.count(resolve((parse("modality!=MRI"),), collection)) == 1
        assert collection.count(resolve(any_of("modality", ["MRI", "CT scan"]), collection)) == 3
        with pytest.raises(FilterError, match=r"no modality 'XR' in older; there are .*MRI"):
            resolve((parse("modality=X-ray"),), collection)


@pytest.mark.parametrize("text", ["patient_id=A|B", r"patient_id=A\|B", r"patient_id=A\|B|C", "split=test|val"])
def test_wording__is_read_back_as_it_was(text):
    assert wording((parse(text),)) == text
    assert parse(wording((parse(text),))) == parse(text)


def test_canonical__one_form_for_letters_of_one_sign_or_two():
    one, two = (unicodedata.normalize(form, "Röntgen Ödem") for form in ("NFC", "NFD"))
    for field in ("labels", "pathology", "anatomic_region", "patient_id", "view"):
        assert canonical(field, one) == canonical(field, two)
    assert point_id("d", one) == point_id("d", two)


def test_resolve__a_glob_sees_all_values_however_many(edge, card, make_batch, monkeypatch):
    monkeypatch.setattr("cbmir.store.collection.FACET_LIMIT", 3)
    with edge.create("eight", card) as collection:
        batch = make_batch(30)
        records = tuple(replace(item, patient_id=f"p{number:02}") for number, item in enumerate(batch.records))
        collection.upsert(replace(batch, records=records))
        assert len(collection.facet("patient_id")) == 30
        assert len(collection.facet("patient_id", limit=4)) == 4
        (found,) = resolve((parse("patient_id~p*9"),), collection)
        assert sorted(found.values) == ["p09", "p19", "p29"]


ALIASED = [
    (name, alias.field)
    for alias in ALIASES
    for name in (*alias.names, *alias.otherwise)
    if name not in FIELDS and name != "primary label" and FIELDS[alias.field].indexed
]


@pytest.mark.parametrize(("name", "field"), ALIASED)
def test_resolve__every_name_of_a_columns_field_leads_to_the_field(name, field):
    for written in {name, name.replace(" ", "_"), name.title()} - FIELDS.keys():
        with pytest.raises(FilterError) as caught:
            resolve((parse(f"{written}=1"),), Stored())
        assert str(caught.value).endswith(f"did you mean {field}?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Alter<60", "did you mean age_years?"),  # the collection's table called it so
        ("Cardiomegaly=1", "write pathology=cardiomegaly"),
        ("Scanner=GE", "did you mean scanner?"),
    ],
)
def test_resolve__a_column_of_the_table_leads_to_what_it_became(text, message):
    with pytest.raises(FilterError) as caught:
        resolve((parse(text),), Stored())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "stored", "found"),
    [
        ("split=Training", {"split": ["train", "test"]}, ("train",)),
        ("split=validation", {"split": ["val"]}, ("val",)),
        ("sex=female", {"sex": ["F", "M"]}, ("F",)),
        ("sex=F", {"sex": ["female", "M"]}, ("female",)),  # stored by another program
        ("sex!=male", {"sex": ["F", "M"]}, ("M",)),
    ],
)
def test_resolve__splits_and_sexes_in_any_spelling(text, stored, found):
    (condition,) = resolve((parse(text),), Stored(**stored))
    assert condition.values == found


def test_not_of__an_id_is_of_its_data_set_unless_it_is_a_keyed_hash():
    keyed = "0123456789abcdef" * 2
    where = not_of("patient_id", [("17", "a"), ("18", "a"), ("17", "b"), (keyed, "a")])
    assert where == (
        Condition("patient_id", "!=", (keyed,)),
        Condition("patient_id", "!=", ("17", "18"), dataset="a"),
        Condition("patient_id", "!=", ("17",), dataset="b"),
    )
    assert wording(where[2:]) == "patient_id!=17 of dataset b"
    assert [scope_of(value, "a") for value in ("17", keyed, keyed.upper(), keyed[1:])] == ["a", None, "a", "a"]


def test_to_qdrant__an_id_of_a_data_set_is_a_filter_within_the_filter():
    built = to_qdrant((Condition("patient_id", "!=", ("17",), dataset="a"),))
    assert built.must is None
    (inner,) = built.must_not
    assert [(item.key, item.match.any) for item in inner.must] == [("patient_id", ["17"]), ("dataset", ["a"])]
