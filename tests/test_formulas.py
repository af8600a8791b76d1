"""CSV files that people open run no formula of a value."""

import csv

import pytest
from pictures import write_picture

from cbmir.formulas import harmless


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|x!A1", "-2+3", "@SUM(1)", " =1+1", "\t=1+1", "\n@x", "＝1+1", "'=1+1", "- x"]
)
def test_harmless__what_would_be_a_formula_begins_with_an_apostrophe(cell):
    assert harmless([cell]) == [f"'{cell}"]


@pytest.mark.parametrize(
    "cell", ["", "-", "-0.5", "+49", "-inf", "a=b", "XR/chest/nodule", "x@y", -0.5, None, "2024-01-01"]
)
def test_harmless__anything_else_stays(cell):
    assert harmless([cell]) == [cell]


def test_csv__of_results_and_failures_runs_no_formula(tmp_path, cbmir):
    table = tmp_path / "table.csv"
    for number in range(8):
        write_picture(tmp_path / f"{number}.png", number)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filepath", "dataset", "split", "patient_id", "labels", "=own"])
        for number in range(9):  # there is no ninth
            split = ("val", "test", "train", "train")[number % 4]
            writer.writerow([f"{number}.png", "=d", split, f"@{number}", ("=1+1", "@x")[number // 4 % 2], "+cmd|a"])
        writer.writerow(["=gone.png", "=d", "test", "", "", ""])
    store = ("--store", tmp_path / "store")
    ingest = ("ingest", "images", table, "--encoder", "pixels", "--workers", 1, "--failures", tmp_path / "failures.csv")
    assert cbmir(*ingest, *store).returncode == 3
    both = (*store, "--queries", "all", "--gallery", "all")
    written = [tmp_path / "failures.csv"]
    for words in (
        ("retrieval", "--by", "dataset", *both),
        ("classify", *both, "-k", 1),
        ("recall", *store),
        ("audit", *store),
    ):
        written.append(tmp_path / f"{words[0]}.csv")
        done = cbmir("evaluate", *words, "--out", written[-1])
        assert done.returncode == 0, done.stderr
    cells = [cell for path in written for row in csv.reader(path.open(newline="")) for cell in row]
    assert [cell for cell in cells if harmless([cell]) != [cell] and not cell.startswith("'")] == []
    assert "'=gone.png" in cells
    assert "'=d" in cells
