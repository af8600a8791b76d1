"""Image records, ids, labels and batches."""

import dataclasses
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cbmir.errors import FingerprintError, RecordError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.schema import (
    FIELDS,
    INDEXED_FIELDS,
    NAMESPACE,
    PAYLOAD_FIELDS,
    EmbeddedBatch,
    Hit,
    ImageRecord,
    is_unit,
    label_slug,
    normalise,
    pathologies,
    point_id,
    rank_hits,
    slug,
)

SAMPLE = ImageRecord(
    filepath="a/b.png",
    dataset="demo",
    split="train",
    modality="XR",
    labels=("XR/chest/nodule", "XR/chest"),
    age_years=0.0,
    extra={"kernel": "B30f"},
)

# ids


def test_point_id__golden():
    """Stored images are found by these; they must never change."""
    assert str(NAMESPACE) == "5b7a4a4e-6d0f-5e0c-9a52-0c6f3d1f2a10"
    assert point_id("nih14", "00000001_000.png") == "d8275569-43a7-5da0-acf0-24d87ec2db83"
    assert point_id("Ünïcode", "a b/ç.png") == "0f1aa245-3311-5db9-b3d5-4088b8fdbbc7"


def test_point_id__is_the_uuid_of_data_set_and_key():
    assert SAMPLE.id == point_id("demo", "a/b.png") == str(uuid.uuid5(NAMESPACE, "demo/a/b.png"))


@given(st.text(min_size=1), st.text(min_size=1))
def test_point_id__only_data_set_and_file_make_it(dataset, filepath):
    one = ImageRecord(filepath=filepath, dataset=dataset)
    other = dataclasses.replace(one, modality="CT", labels=("CT/a/b",), split="val", extra={"x": 1})
    assert one.id == other.id
    assert uuid.UUID(one.id).version == 5


# slugs


@pytest.mark.parametrize(
    ("text", "made"),
    [("Pleural Effusion", "pleural_effusion"), ("  a \t b\n", "a_b"), ("A__B", "a__b"), ("", ""), ("É", "é")],
)
def test_slug__examples(text, made):
    assert slug(text) == made


@given(st.text())
def test_slug__idempotent_and_without_space(text):
    once = slug(text)
    assert slug(once) == once
    assert not any(sign.isspace() for sign in once)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("XR/chest/Pleural Effusion", "XR/chest/pleural_effusion"),
        (" xr / Left Hand / Fracture ", "XR/left_hand/fracture"),
        ("ct/chest", "CT/chest"),
        ("Chest Mass", "chest_mass"),
    ],
)
def test_label_slug__examples(text, made):
    assert label_slug(text) == made


@pytest.mark.parametrize("text", ["", "/", "XR//x", "/chest/x", "XR/chest/", " / ", "XR/ /x"])
def test_label_slug__an_empty_part_is_refused(text):
    with pytest.raises(RecordError, match="has an empty part"):
        label_slug(text)


@given(st.lists(st.text(min_size=1).filter(lambda part: "/" not in part and part.strip()), min_size=1, max_size=4))
def test_label_slug__idempotent(parts):
    once = label_slug("/".join(parts))
    assert label_slug(once) == once
    assert once.count("/") == len(parts) - 1


def test_pathologies__last_parts_once_each():
    assert pathologies(["XR/chest/mass", "CT/chest/mass", "CT/chest", "mass", "XR/a/b/c"]) == ["mass", "c"]


# records


def test_image_record__payload_leaves_out_what_is_unknown():
    assert SAMPLE.payload() == {
        "filepath": "a/b.png",
        "dataset": "demo",
        "split": "train",
        "kind": "image",
        "modality": "XR",
        "labels": ["XR/chest/nodule", "XR/chest"],
        "primary_label": "XR/chest/nodule",
        "pathology": ["nodule"],
        "age_years": 0.0,
        "extra": {"kernel": "B30f"},
    }
    bare = {"filepath": "x", "dataset": "d", "kind": "image", "labels": []}
    assert ImageRecord(filepath="x", dataset="d").payload() == bare


def test_image_record__every_field_has_a_place_in_the_payload():
    given = {field.name for field in dataclasses.fields(ImageRecord)}
    assert given | {"pathology", "primary_label"} == set(FIELDS)
    full = ImageRecord(
        **{name: {"labels": ("CT/a/b",), "split": "val", "extra": {"x": 1}}.get(name, "1") for name in given}
    )
    assert set(full.payload()) == set(FIELDS)


def test_image_record__payload_is_the_callers_own():
    extra = {"a": 1}
    record = ImageRecord(filepath="x", dataset="d", extra=extra)
    record.payload()["extra"]["a"] = 2
    record.payload()["labels"].append("x")
    assert extra == {"a": 1}
    assert record.payload()["labels"] == []


@pytest.mark.parametrize(("filepath", "dataset"), [("", "d"), ("x", ""), ("", "")])
def test_image_record__needs_filepath_and_dataset(filepath, dataset):
    with pytest.raises(RecordError, match="needs a filepath and a dataset"):
        ImageRecord(filepath=filepath, dataset=dataset)


def test_image_record__unknown_split():
    with pytest.raises(RecordError, match=r"split 'dev' of x is none of train, val, test"):
        ImageRecord(filepath="x", dataset="d", split="dev")


def test_payload_fields__text_objects_and_internal_ones_have_no_index():
    assert {item.name for item in PAYLOAD_FIELDS} - {item.name for item in INDEXED_FIELDS} == {
        "filepath",
        "thumbnail_url",
        "extra",
        "decoder",
    }


# batches


def test_embedded_batch__counts_must_agree():
    with pytest.raises(RecordError, match=r"1 records met vectors of shape \(2, 4\)"):
        EmbeddedBatch((SAMPLE,), np.eye(4, dtype=np.float32)[:2], "f")
    with pytest.raises(RecordError, match="1 records met"):
        EmbeddedBatch((SAMPLE,), np.ones(1, np.float32), "f")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1.01])
def test_embedded_batch__names_the_first_bad_vector(value):
    vectors = np.eye(4, dtype=np.float32)[:3]
    vectors[1, 1] = value
    records = tuple(ImageRecord(filepath=name, dataset="d") for name in "abc")
    with pytest.raises(RecordError, match=r"the vector of b is not finite or not of unit length \(1 of 3"):
        EmbeddedBatch(records, vectors, "f")


FINITE = st.floats(-(2.0**99), 2.0**99, width=32)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FINITE))
def test_normalise__unit_or_nan(vectors):
    made = normalise(vectors)
    zero = ~vectors.any(axis=1)
    assert np.isnan(made[zero]).all()
    assert is_unit(made[~zero]).all()
    assert made.dtype == np.float32


def test_normalise__what_is_not_finite_becomes_nan():
    made = normalise(np.array([[np.nan, 1], [np.inf, 1], [3, 4]], np.float32))
    assert np.isnan(made[:2]).any(axis=1).all()
    assert np.allclose(made[2], [0.6, 0.8])
    assert list(is_unit(made)) == [False, False, True]


def test_rank_hits__by_falling_score_then_id():
    hits = rank_hits([("b", 0.5, {}), ("c", 0.9, {}), ("a", 0.5, {"x": 1})])
    assert hits == [Hit("c", 1, 0.9, {}), Hit("a", 2, 0.5, {"x": 1}), Hit("b", 3, 0.5, {})]


# fingerprints

CARD = EncoderCard("net", 4, "sha256:" + "a" * 64, {"input_px": [224, 224], "mean": [0.5]})


def test_encoder_card__golden_fingerprint():
    """Collections hold it; it must never change."""
    assert external_card("demo", 512).fingerprint == "e738fd3d0a22990b"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"dim": 5},
        {"weights": "sha256:b"},
        {"preprocessing": {"input_px": [256, 256], "mean": [0.5]}},
    ],
)
def test_encoder_card__any_change_gives_another_fingerprint(change):
    other = dataclasses.replace(CARD, **change)
    assert other.fingerprint != CARD.fingerprint
    with pytest.raises(FingerprintError) as caught:
        CARD.require(other, "collection x")
    assert all(part in str(caught.value) for part in (CARD.fingerprint, other.fingerprint, "collection x", *change))


def test_encoder_card__json_round_trip():
    assert EncoderCard.from_json(CARD.as_json()) == CARD
    shuffled = dataclasses.replace(CARD, preprocessing=dict(reversed(CARD.preprocessing.items())))
    assert shuffled.fingerprint == CARD.fingerprint
    with pytest.raises(KeyError):
        EncoderCard.from_json({"name": "x"})
