"""The root command and what it does with a store, run as users run it."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from cbmir import __version__
from cbmir.cli import _COMMANDS
from cbmir.encoders import specs
from cbmir.fingerprint import external_card


def _error(done) -> str:
    """The one line on stderr of a command that failed."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_version(cbmir_process):
    done = cbmir_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cbmir, version {__version__}\n", "")
    assert importlib.metadata.version("cbmir") == __version__


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help__names_every_command_and_the_exit_codes(cbmir, option):
    done = cbmir(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in _COMMANDS)
    assert "Exit codes: 0 all well, 1 an error, 2 wrong usage" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["collect"],
        ["collections", "show"],
        ["collections", "list"],
        ["collections", "list", "--store"],
        ["encoders", "list", "--jsonn"],
    ],
    ids=" ".join,
)
def test_wrong_usage__is_2_with_words_on_stderr(cbmir, words):
    done = cbmir(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: cbmir" in done.stderr or done.stderr.startswith("Error: ")


def test_collections_list(cbmir, shelf, card):
    done = cbmir("collections", "list", "--store", shelf)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["eight", "30", "eight", card.fingerprint], ["empty", "0", "eight", card.fingerprint]]


def test_collections_list__json(cbmir, shelf, card):
    done = cbmir("collections", "list", "--json", CBMIR_STORE=str(shelf))
    rows = json.loads(done.stdout)
    assert [(row["name"], row["points"], row["indexed"], row["status"]) for row in rows] == [
        ("eight", 30, 0, "green"),
        ("empty", 0, 0, "green"),
    ]
    assert rows[0]["encoder"] == card.as_json()
    assert rows[0]["fingerprint"] == card.fingerprint


def test_collections_list__an_empty_directory(cbmir, tmp_path):
    done = cbmir("collections", "list", "--store", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{tmp_path} holds no collection yet\n")
    assert cbmir("collections", "list", "--store", tmp_path, "--json").stdout == "[]\n"


def test_collections_list__one_in_use_doesnt_hide_the_others(cbmir_process, edge, filled):
    edge.create("free", filled.card).close()
    done = cbmir_process("collections", "list", "--store", edge.path)
    assert (done.returncode, done.stdout.split()[0]) == (3, "free")
    assert done.stderr.startswith(f"failed: {filled.name}: ")
    assert "in use by another process" in done.stderr


def test_collections_list__no_directory(cbmir, tmp_path):
    done = cbmir("collections", "list", "--store", tmp_path / "missing", "--json")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert done.stderr == f"there is no {tmp_path / 'missing'} yet; ingest makes it\n"
    assert not (tmp_path / "missing").exists()
    (tmp_path / "file").write_text("x")
    assert "is a file; give a directory" in _error(cbmir("collections", "list", "--store", tmp_path / "file"))
    assert "neither a directory nor" in _error(cbmir("collections", "list", "--store", "ftp://host/x"))


def test_collections_show(cbmir, shelf):
    done = cbmir("collections", "show", "eight", "--store", shelf)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("eight: 30 images, searched exactly: too small to index, green, qdrant-edge ")
    assert ["CT", "10"] in [line.split() for line in done.stdout.splitlines()]


def test_collections_show__json(cbmir, shelf):
    data = json.loads(cbmir("collections", "show", "eight", "--json", "--store", shelf).stdout)
    assert data["counts"]["modality"] == {"CT": 10, "MR": 10, "XR": 10}
    assert data["counts"]["dataset"] == {"synthetic": 30}
    assert data["points"] == 30
    empty = json.loads(cbmir("collections", "show", "empty", "--json", "--store", shelf).stdout)
    assert set(map(len, empty["counts"].values())) == {0}


@pytest.mark.parametrize("command", [["show"], ["drop", "--yes"], ["optimize"]], ids=lambda words: words[0])
def test_collections__a_missing_name_names_those_there_are(cbmir, shelf, command):
    done = cbmir("collections", *command, "nine", "--store", shelf)
    assert f"no collection 'nine' in {shelf}; there are eight, empty" in _error(done)


def test_collections_show__in_an_empty_directory(cbmir, tmp_path):
    assert "it holds no collection yet" in _error(cbmir("collections", "show", "nine", "--store", tmp_path))


def test_collections_drop__asks_first(cbmir, cbmir_process, edge, filled):
    filled.close()
    kept = cbmir_process("collections", "drop", "eight", "--store", edge.path)  # nobody answers
    assert kept.returncode == 130
    assert "for good?" in kept.stderr
    assert edge.names() == ["eight"]
    gone = cbmir("collections", "drop", "eight", "--yes", "--store", edge.path)
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", "eight is gone\n")
    assert edge.names() == []
    assert list(edge.path.iterdir()) == []


def test_collections_create__for_vectors_from_files(cbmir, edge):
    done = cbmir("collections", "create", "mine", "--encoder", "our-net", "--dim", "512", "--store", edge.path)
    assert (done.returncode, done.stdout) == (0, "mine\n")
    with edge.open("mine") as collection:
        assert collection.card == external_card("our-net", 512)
    none = cbmir("collections", "create", "none", "--encoder", "our-net", "--dim", "0", "--store", edge.path)
    assert none.returncode == 2
    assert edge.names() == ["mine"]


def test_collections_optimize(cbmir, shelf):
    done = cbmir("collections", "optimize", "eight", "--store", shelf)
    assert (done.returncode, done.stderr) == (0, "eight: 30 images, searched exactly: too small to index, green\n")


def test_encoders_list(cbmir):
    done = cbmir("encoders", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(spec.name in done.stdout for spec in specs())
    assert all(f"\n{form}" in done.stdout for form in ("timm:NAME", "open_clip:ARCH/TAG", "hf:ORG/REPO"))
    assert "CC-BY-NC-4.0 (non-commercial)" in done.stdout
    heads, *rows = done.stdout.splitlines()
    columns = ("name", "dim", "input px", "offline now", "text", "trained on", "licence")
    starts = [heads.index(f"  {name}  ".strip() if name == "name" else name) for name in columns]
    cells = {
        row.split()[0]: [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for row in rows[: len(specs())]
    }
    assert list(cells) == [spec.name for spec in specs()]
    assert cells["efficientnet-lite1"][1:6] == ["1280", "240", "yes", "no", "ImageNet-1k"]
    assert cells["medsiglip"][1:5] == ["1152", "448", "no", "yes"]  # the tests' cache of the hub is empty
    assert cells["astra-ct"][2] == "224 x 224 x 160"
    assert all(cell[2] and cell[5] for cell in cells.values())


def test_encoders_list__json(cbmir):
    rows = json.loads(cbmir("encoders", "list", "--json").stdout)
    assert [row["name"] for row in rows] == [spec.name for spec in specs()]
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert {row["name"]: row["works_offline_now"] for row in rows}["pixels"] is True
    assert {row["name"]: row["takes"] for row in rows}["rad-dino"] == "518"
    assert {"name", "source", "revision", "licence", "gated", "trained_on", "citation", "dim", "text"} <= set(rows[0])


def test_encoders_show(cbmir):
    done = cbmir("encoders", "show", "medsiglip")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (done.returncode, lines["source"], lines["gated"]) == (0, "google/medsiglip-448", "True")
    data = json.loads(cbmir("encoders", "show", "medsam-b16", "--json").stdout)
    assert data["preprocessing"]["scaling"] == "minmax"
    assert json.loads(cbmir("encoders", "show", "astra-ct", "--json").stdout)["preprocessing"] is not None
    assert "no encoder 'nothing'" in _error(cbmir("encoders", "show", "nothing"))


def test_encoders_pull__what_needs_none(cbmir, tmp_path):
    for name in ("pixels", "efficientnet-lite0-untrained"):
        _error(cbmir("encoders", "pull", name, "--to", tmp_path / name))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert "is not empty" in _error(cbmir("encoders", "pull", "rad-dino", "--to", tmp_path / "full"))


def test_encoders_pull__terms_come_before_the_download(cbmir_process, tmp_path):
    done = cbmir_process("encoders", "pull", "medsiglip", "--to", tmp_path / "to")  # the tests have no hub
    first, *_, last = done.stderr.splitlines()
    assert (done.returncode, first[:19]) == (1, "medsiglip is gated:")
    assert last.startswith("error: no weights for google/medsiglip-448: give --weights FILE|DIR; from the model hub")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pipe to break")
def test_output__a_closed_pipe_is_no_error(cbmir, shelf):
    command = f"{sys.executable} -m cbmir collections show eight --store {shelf} | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("e", "")
    assert done.returncode in (0, 1)  # 1 is what click ends with when the reader is gone in the middle of a line
