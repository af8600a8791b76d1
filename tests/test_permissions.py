"""Who may read what cbmir writes: patient data only its user, thumbnails whom --thumbnail-mode says."""

import os
import stat
from pathlib import Path

import pytest
from pictures import write_picture, write_table
from PIL import Image

from cbmir.permissions import as_usual, private

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def usual():
    """The mask that most systems give their users."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Rights of all files and folders that others than the owner could use."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & 0o077:
            found[str(path.relative_to(folder))] = oct(mode)
    return found


def test_program__what_it_writes_is_for_its_user_only(tmp_path, cbmir, monkeypatch):
    table = write_table(tmp_path / "data", 14)
    (tmp_path / "data/images/00003.png").write_bytes(b"no image")
    made = tmp_path / "made"
    made.mkdir(mode=0o700)
    monkeypatch.chdir(made)
    stored = ("--store", "store/below")
    ingest = ("ingest", "images", table, "--encoder", "pixels", *stored, "--workers", 1, "--embeddings", "h5/a")
    assert cbmir(*ingest).returncode == 3  # and a table of failures
    picture = tmp_path / "data/images/00001.png"
    commands = [
        ("collections", "export", "pixels", *stored, "--out", "export/a"),
        ("collections", "snapshot", "pixels", *stored, "--out", "backup/a"),
        ("collections", "restore", "backup/a", *stored, "--as", "again"),
        ("collections", "optimize", "pixels", *stored),
        ("search", "image", picture, *stored, "--collection", "pixels", "--sheet", "sheets/a.png"),
        ("evaluate", "retrieval", *stored, "--collection", "pixels", "--out", "rows.csv"),
        ("evaluate", "report", "pixels", *stored, "--out", "report"),
        ("ingest", "merge", table, "--out", "merged/table.csv"),
    ]
    for command in commands:
        done = cbmir(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert len(list(made.rglob("*"))) > 30
    assert modes(made) == {}
    probe = tmp_path / "probe"
    probe.touch()
    assert stat.S_IMODE(probe.stat().st_mode) == 0o644  # the program's mask ends with it


def test_create__a_directory_is_private_in_other_programs_too(edge, card):
    edge.create("eight", card).close()
    assert stat.S_IMODE(edge.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((edge.path / "eight").stat().st_mode) == 0o700


def test_as_usual__weights_are_for_all_whom_the_user_lets(tmp_path):
    with private():
        (tmp_path / "private").touch()
        with as_usual():
            (tmp_path / "weights").touch()
        (tmp_path / "again").touch()
    assert modes(tmp_path).keys() - {"."} == {"weights"}


def test_pull__weights_can_be_read_by_others(tmp_path, cbmir, monkeypatch):
    made = []

    def pull(spec, to):
        (to / "weights.bin").touch()
        made.append(to)

    monkeypatch.setattr("cbmir.encoders.timm.pull", pull)
    done = cbmir("encoders", "pull", "timm:resnet18.a1_in1k", "--to", tmp_path / "weights")
    assert done.returncode == 0, done.stderr
    assert made
    assert modes(tmp_path / "weights")["weights.bin"] == "0o644"


@pytest.mark.parametrize(
    ("option", "file", "folder"), [((), 0o644, 0o755), (("--thumbnail-mode", "0640"), 0o640, 0o750)]
)
def test_thumbnails__have_the_mode_that_was_asked_for(tmp_path, cbmir, option, file, folder):
    for number in range(3):
        write_picture(tmp_path / f"data/{number}.png", number)
    place = ("--thumbnails", tmp_path / "www/a/t", "--thumbnail-url", "http://localhost/t", *option)
    stored = ("--store", tmp_path / "store")
    assert cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", *stored, *place).returncode == 0
    files = list((tmp_path / "www").rglob("*.jpg"))
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {file}
    served = [tmp_path / "www", tmp_path / "www/a", tmp_path / "www/a/t", *(path.parent for path in files)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in served} == {folder}
    for path in files:
        path.unlink()
    again = ("ingest", "thumbnails", "pixels", *stored, "--root", tmp_path / "data", *place)
    assert cbmir(*again).returncode == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {file}


@pytest.mark.parametrize("mode", ["644x", "0999", "0444", "0755", "7", "²44", ""])
def test_thumbnails__a_mode_that_is_none_is_refused(tmp_path, cbmir, mode):
    write_picture(tmp_path / "data/1.png", 1)
    place = ("--thumbnails", tmp_path / "t", "--thumbnail-url", "http://localhost/t", "--thumbnail-mode", mode)
    done = cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", "--store", tmp_path / "s", *place)
    assert done.returncode == 2
    assert "give 0644, 0640 or 0600" in done.stderr
    assert not (tmp_path / "t").exists()


def test_ingest_images__a_failed_image_has_no_thumbnail(tmp_path, cbmir):
    write_picture(tmp_path / "data/good.png", 1)
    Image.new("L", (40, 40), 0).save(tmp_path / "data/even.png")  # read, drawn, and without a vector
    (tmp_path / "data/bad.png").write_bytes(b"no image")
    place = ("--thumbnails", tmp_path / "t", "--thumbnail-url", "http://localhost/t")
    stored = ("--store", tmp_path / "store", "--failures", tmp_path / "f.csv", "--json")
    done = cbmir("ingest", "images", tmp_path / "data", "--encoder", "pixels", *stored, *place)
    assert done.returncode == 3
    assert len(list((tmp_path / "t").rglob("*.jpg"))) == 1
