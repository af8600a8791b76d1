"""Whether an encoder has seen a data set, from what is known of it."""

import json

import pytest

from cbmir.encoders import registry
from cbmir.encoders.contamination import ALIASES, contamination
from cbmir.fingerprint import EncoderCard, external_card


def verdicts(encoder, *datasets):
    return [item.verdict for item in contamination(EncoderCard(encoder, 8, "sha256:0", {}), datasets)]


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("rad-dino", ["seen", "seen", "seen", "not listed"]),
        ("radimagenet-resnet50", ["not listed", "not listed", "not listed", "seen"]),
        ("medclip", ["not listed", "seen", "seen", "not listed"]),
        ("medsiglip", ["unknown", "unknown", "seen", "unknown"]),  # its authors don't name all data sets
        ("efficientnet-lite0", ["not listed"] * 4),
        ("timm:resnet18", ["unknown"] * 4),
        ("of-my-own", ["unknown"] * 4),
    ],
)
def test_contamination__by_what_is_known_of_the_encoder(encoder, expected):
    assert verdicts(encoder, "nih14", "CheXpert", "MIMIC-CXR", "RadImageNet") == expected


@pytest.mark.parametrize("spelling", ["nih14", "NIH ChestX-ray14", "ChestX-ray14", "nih_cxr14", "NIH"])
def test_contamination__knows_other_spellings(spelling):
    assert verdicts("eva-x-b", spelling) == ["seen"]


def test_contamination__a_part_of_what_was_seen_is_seen():
    assert verdicts("eva-x-b", "RSNA Pneumonia", "openi") == ["seen", "not listed"]  # RSNA took its images from NIH
    assert verdicts("biomedclip", "ROCO v2") == verdicts("pubmedclip", "PMC-OA") == ["seen"]


def test_contamination__vectors_made_elsewhere_are_judged_by_their_name():
    (item,) = contamination(external_card("medclip", 8), ["chexpert"])
    assert (item.dataset, item.verdict) == ("chexpert", "seen")
    assert item.reason == (
        "medclip was trained on CheXpert and MIMIC-CXR; its vectors were made elsewhere, and it is judged by its name"
    )


def test_specs__name_data_sets_that_have_one_spelling():
    assert {name for spec in registry.specs() for name in spec.seen} == set(ALIASES)
    spellings = [spelling for name, others in ALIASES.items() for spelling in (name, *others)]
    assert len(spellings) == len(set(spellings))
    assert all(spelling.isalnum() and spelling == spelling.lower() for spelling in spellings)


def test_show__what_was_seen(cbmir):
    assert json.loads(cbmir("encoders", "show", "medclip", "--json").stdout)["seen"] == ["chexpert", "mimic"]
    assert "seen             chexpert, mimic\n" in cbmir("encoders", "show", "medclip").stdout
    assert "seen             -\n" in cbmir("encoders", "show", "resnet50").stdout
