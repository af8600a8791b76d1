"""``cbmir evaluate retrieval``: what it prints, and what it says when it can't."""

import json
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from cbmir.cli import cli
from cbmir.fingerprint import external_card
from cbmir.options import run
from cbmir.schema import EmbeddedBatch, ImageRecord, normalise
from cbmir.store import open_store

CARD = external_card("random", 8)
ROW = ["measure", "k", "average", "group", "value", "n", "coverage", "search", "low", "high", "patients"]
LABELS = ("CT/chest/nodule", "CT/chest/effusion", "XR/hand/fracture", "XR/hand/normal")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The location of a store with the collection demo: 12 images for training, 4 for validation, 4 for testing."""
    records = []
    for number in range(20):
        label = LABELS[number % 4]
        modality, region, _ = label.split("/")
        split = "train" if number < 12 else "val" if number < 16 else "test"
        record = ImageRecord(
            filepath=f"{number}.png",
            dataset="syn",
            split=split,
            modality=modality,
            anatomic_region=region,
            labels=(label,),
        )
        records.append(record)
    vectors = normalise(np.random.default_rng(0).standard_normal((20, CARD.dim)).astype(np.float32))
    location = tmp_path_factory.mktemp("demo") / "store"
    with open_store(location) as store, store.create("demo", CARD) as collection:
        collection.upsert(EmbeddedBatch(tuple(records), vectors, CARD.fingerprint))
    return str(location)


def test_cli__prints_one_json_object(demo, tmp_path):
    out = tmp_path / "rows.csv"
    arguments = [
        "--store",
        demo,
        "--collection",
        "demo",
        "--queries",
        "split=test|val",
        "-k",
        "5",
        "-k",
        "1",
        "-k",
        "5",
    ]
    result = CliRunner().invoke(cli, ["evaluate", "retrieval", *arguments, "--json", "--out", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert list(data) == ["protocol", "encoder", "rows", "analysis", "configuration", "versions"]
    assert all(list(row) == ROW for row in data["rows"])
    assert len(data["rows"]) == 2 * 2 * 2 * 3 * 2  # measures, k, averages, groups, searches
    assert {row["group"] for row in data["rows"]} == {"all", "modality=CT", "modality=XR"}
    assert data["encoder"] == {**CARD.as_json(), "fingerprint": CARD.fingerprint}
    protocol = data["protocol"]
    assert (protocol["collection"], protocol["label"], protocol["k"]) == ("demo", "primary_label", [1, 5])
    none = {"unlabelled": 0, "further_labels": 0}
    assert protocol["queries"] == {"filter": "split=test|val", "images": 8, "datasets": {"syn": 8}, **none}
    assert protocol["gallery"] == {"filter": "split=train", "images": 12, "datasets": {"syn": 12}, **none}
    assert protocol["exclusion"]["same_patient"] == "excluded"
    assert (protocol["search"], protocol["ef"]) == (["exact", "approximate"], 128)
    assert len(out.read_text().splitlines()) == 1 + len(data["rows"])


def test_cli__prints_a_table_with_its_terms(demo):
    arguments = ["--store", demo, "--modality", "XR", "--label", "anatomic_region", "--search", "exact"]
    result = CliRunner().invoke(cli, ["evaluate", "retrieval", *arguments])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for text in ("split=test and modality=XR", CARD.fingerprint, "of syn", "precision_capped", "@10", "a scan of all"):
        assert text in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith(("all", "modality"))]
    assert [line[:3] for line in lines] == [
        [group, average, "exact"] for group in ("all", "modality=XR") for average in ("micro", "macro")
    ]
    assert all(line[3:7] == ["1.0000"] * 4 for line in lines)  # every XR image here is a hand


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-k", "0"], 2, "0 is not in the range 1<=x<=100"),
        (["-k", "10001"], 2, "10001 is not in the range 1<=x<=10000"),
        (["--measure", "recal"], 2, "'recal' is not one of"),
        (
            ["--queries", "split=tset"],
            1,
            "error: no image for the queries (split=tset): no split 'tset' in demo; there",
        ),
        (["--gallery", "modality=MR"], 1, "error: no image for the gallery (modality=MR): no modality 'MR' in demo"),
        (["--split", "test"], 1, "error: no image for the gallery: none of the 20 in demo satisfies split=train and"),
        (["--queries", "nonsense"], 1, "error: can't read the condition 'nonsense'"),
        (["--collection", "other"], 1, "error: no collection 'other'"),
    ],
)
def test_cli__errors_are_one_line(demo, arguments, code, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cbmir", "evaluate", "retrieval", "--store", demo, *arguments])
    with pytest.raises(SystemExit) as stop:
        run(cli, "cbmir")
    printed = capsys.readouterr()
    assert stop.value.code == code
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    assert message in last
    assert code == 2 or last == printed.err.strip()
