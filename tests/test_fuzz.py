"""Damaged files of every kind: each is read or refused in one line, in bounded time and memory.

`make test` tries a few of each kind. `make fuzz` tries 2,000 of each at the entry functions and 50 by command.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_kinds import KINDS

SEED = 20241129
GROWN_MB = 1500
"""Memory beyond that of the good files; a mutated header may ask for as much as a limit lets it have."""

GROUPS = (
    ("png", "jpeg", "tiff", "jpeg2000", "csv", "tsv", "xlsx", "parquet"),
    ("hdf5-columnar", "hdf5-published", "toml", "yaml", "manifest", "archive"),
    ("nifti",),
)
"""Kinds that a few inputs of share a process, which takes longer to start than to read them."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="measures memory as POSIX does")]


def fuzzed(kinds, inputs, commands, folder):
    """What became of the inputs of some kinds, in a process of their own."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, here / "fuzz.py", ",".join(kinds), *map(str, (inputs, commands, SEED)), folder],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": f"{here.parent}"},
    )  # fmt: skip
    cases = {path.parent.name: path.read_text() for path in sorted(folder.glob("*/case"))}
    assert done.returncode == 0, f"one of the inputs {cases} of seed {SEED} ended the process: {done.stderr[-3000:]}"
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
    assert [item["kind"] for item in found] == list(kinds)
    return found


def check(found, inputs, commands):
    assert found["faults"] == []
    assert sum(found["outcomes"].values()) == inputs
    assert set(found["outcomes"]) <= {"read", "refused"}
    assert found["grown_mb"] < GROWN_MB
    ends = dict(found["commands"])
    good = ends.pop("good", None)
    if good is not None:  # a folder
        assert ends.pop("good failed") == 0
        read, stored, failed, skipped = (ends.pop(name) for name in ("read", "stored", "failed", "skipped"))
        assert read == good + commands == stored + failed + skipped
        assert stored >= good
    assert set(ends) <= {"exit 0", "exit 1", "exit 2", "exit 3"}


@pytest.mark.parametrize("kinds", GROUPS, ids="+".join)
def test_fuzz__every_kind_is_read_or_refused(kinds, tmp_path):
    for found in fuzzed(kinds, 40, 1, tmp_path):
        check(found, 40, 1)


def test_groups__hold_every_kind():
    assert sorted(kind for kinds in GROUPS for kind in kinds) == sorted(KINDS)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_fuzz__two_thousand_of_every_kind(kind, tmp_path):
    (found,) = fuzzed([kind], 2000, 50, tmp_path)
    print(json.dumps({name: value for name, value in found.items() if name != "faults"}))
    check(found, 2000, 50)
