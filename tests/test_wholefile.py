"""Files that are whole or not there."""

import os

import pytest

from cbmir.wholefile import atomic_write, replacing


@pytest.mark.parametrize("content", ["Ä\n", b"\xff\x00"])
def test_atomic_write__replaces_and_leaves_nothing_else(tmp_path, content):
    path = tmp_path / "a.json"
    for old in ("first", content):
        atomic_write(path, old)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_atomic_write__of_what_can_not_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    atomic_write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_replacing__keeps_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
    (tmp_path / "a.h5.partial").write_text("left by a killed run")
    with replacing(path) as partial:
        assert partial.name == "a.h5.partial"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["a.partial", ".a.{}.part"])
def test_replacing__follows_no_link(tmp_path, name):
    """A folder may have come from elsewhere, with links in it."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / name.format(os.getpid())).symlink_to(tmp_path / "mine")
    with replacing(tmp_path / "a") as partial:
        partial.write_text("new")
    atomic_write(tmp_path / "a", "newer")
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()
