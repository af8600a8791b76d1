"""The parts of the demo that need no images."""

import pytest

from examples.demo import ENCODERS, PROTOCOLS, _comparison, _queries, _run


def test_queries__one_of_the_test_split_for_each_modality(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "filepath,split,modality\n"
        "ct1.png,train,CT\nct2.png,test,CT\nct3.png,test,CT\nct4.png,test,CT\n"
        "mr1.png,train,MR\nmr2.png,val,MR\nxr1.png,test,XR\n"
    )
    queries = _queries(table)
    assert list(queries) == ["CT", "MR", "XR"]
    assert queries["CT"] == "ct3.png"
    assert queries["MR"] in ("mr1.png", "mr2.png")
    assert queries["XR"] == "xr1.png"


def result(name, values):
    rows = [
        {"measure": "precision", "group": "all", "search": "exact", "average": average, "k": k, "value": value}
        for (average, k), value in values.items()
    ]
    other = {"measure": "recall", "group": "all", "search": "exact", "average": "micro", "k": 1, "value": 0.999}
    return {
        "encoder": {"name": name, "fingerprint": "0123456789abcdef"},
        "protocol": {
            "label": "primary_label",
            "queries": {"images": 1200, "filter": "split=test"},
            "gallery": {"images": 3400, "filter": "split=train"},
        },
        "rows": [*rows, other],
    }


def test_comparison__a_line_an_encoder_with_its_fingerprint_and_figures():
    values = {("micro", 1): 0.5, ("micro", 5): 0.25, ("micro", 10): 0.125, ("macro", 1): 0.75}
    lines = _comparison([result(name, values) for name in ENCODERS]).splitlines()
    assert "1,200 queries (split=test) against 3,400 (split=train)" in lines
    assert [line.split() for line in lines[-3:]] == [
        [name, "0123456789abcdef", "0.500", "0.250", "0.125", "0.750"] for name in ENCODERS
    ]
    assert "0.999" not in "".join(lines)


def test_run__a_failing_command_ends_the_demo_with_its_code(capfd):
    with pytest.raises(SystemExit) as left:
        _run("-m", "cbmir", "collections", "list", "--store", __file__)
    assert left.value.code == 1
    assert "$ cbmir collections list" in capfd.readouterr().err


def test_protocols__the_first_is_the_default_of_the_command():
    assert next(iter(PROTOCOLS.values())) == ()
