"""Runs that divide a source, one after another and at once."""

import json
import os
import subprocess
import uuid

import pytest
from builders import contents_of
from pictures import command, environment, write_table

from cbmir.errors import SourceError
from cbmir.fingerprint import external_card
from cbmir.ingest import SourceOptions, open_source
from cbmir.ingest.report import Failure
from cbmir.ingest.shard import Shard, open_in_turn
from cbmir.store import Layout, open_store
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

COUNT = 60


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("shards"), COUNT)


@pytest.mark.parametrize(("text", "part", "parts"), [("1/4", 1, 4), ("4/4", 0, 4), ("1/1", 0, 1), (" 2/3 ", 2, 3)])
def test_parse(table, text, part, parts):
    shard = Shard.parse(open_source(table), text)
    assert (shard.part, shard.parts) == (part, parts)


@pytest.mark.parametrize("text", ["", "1", "1/0", "0/0", "-1/2", "a/b", "1/2/3", "1.5/2"])
def test_parse__of_another_form(table, text):
    with pytest.raises(SourceError, match="write i/n"):
        Shard.parse(open_source(table), text)


@pytest.mark.parametrize("text", ["0/4", "5/4"])
def test_parse__outside_the_range_names_it(table, text):
    with pytest.raises(SourceError, match=f"no shard '{text}'; shards count from 1: give 1/4 to 4/4"):
        Shard.parse(open_source(table), text)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_iter__every_item_belongs_to_one_part(tmp_path, parts):
    path = write_table(tmp_path, 40)
    path.write_text(path.read_text() + "images/1.png,,sometimes,,,,\n")  # a row that can't be a record
    source = open_source(path, SourceOptions())
    whole = list(source)
    assert any(isinstance(item, Failure) for item in whole)
    divided = [list(Shard.parse(source, f"{part}/{parts}")) for part in range(1, parts + 1)]
    assert sorted(map(repr, whole)) == sorted(repr(item) for part in divided for item in part)
    assert all(len(part) > 0 for part in divided)


def test_iter__an_image_keeps_its_part_whatever_comes_before_it(tmp_path):
    few, many = write_table(tmp_path / "few", 20), write_table(tmp_path / "many", 40)
    kept = {item.record.filepath for item in Shard.parse(open_source(few), "1/3")}
    options = SourceOptions()
    assert kept <= {item.record.filepath for item in Shard.parse(open_source(many, options), "1/3")}


def test_command__shards_at_once_equal_one_run(table, tmp_path, cbmir):
    arguments = ("ingest", "images", table, "--encoder", "pixels", "--json", "--workers", 1)
    whole = cbmir(*arguments, "--store", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    runs = [
        subprocess.Popen(
            command(*arguments, "--store", tmp_path / "shared", "--shard", f"{part}/2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for part in (1, 2)
    ]
    reports = []
    for run in runs:
        out, err = run.communicate(timeout=1200)
        assert run.returncode == 0, err
        reports.append(json.loads(out))
    assert sum(report["read"] for report in reports) == COUNT
    assert all(report["read"] == report["stored"] > 0 for report in reports)
    assert contents_of(tmp_path / "shared", "pixels") == contents_of(tmp_path / "whole", "pixels")

    again = cbmir(*arguments, "--store", tmp_path / "shared", "--shard", "1/2")
    assert json.loads(again.stdout)["stored"] == 0


@pytest.mark.server
def test_command__shards_at_once_on_a_server_equal_one_run(table, tmp_path, cbmir):
    url, key = os.environ.get("QDRANT_URL"), os.environ.get("QDRANT_API_KEY")
    if not url:
        pytest.skip("QDRANT_URL names no server")
    name = f"test-{uuid.uuid4().hex[:12]}"
    arguments = ("ingest", "images", table, "--encoder", "pixels", "--collection", name, "--workers", 1)
    try:
        runs = [
            subprocess.Popen(
                command(*arguments, "--store", url, "--shard", f"{part}/2"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**environment(), **({"QDRANT_API_KEY": key} if key else {})},
            )
            for part in (1, 2)
        ]
        for run in runs:
            _, err = run.communicate(timeout=1200)
            assert run.returncode == 0, err
        assert cbmir(*arguments, "--store", tmp_path / "whole").returncode == 0
        theirs, ours = contents_of(url, name, key), contents_of(tmp_path / "whole", name)
        assert {id: payload for id, (payload, _) in theirs.items()} == {
            id: payload for id, (payload, _) in ours.items()
        }
    finally:
        with open_store(url, key) as store:
            if name in store.names():
                store.drop(name)


def test_command__a_shard_that_is_none(table, tmp_path, cbmir):
    done = cbmir("ingest", "images", table, "--encoder", "pixels", "--store", tmp_path / "s", "--shard", "3/2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no shard '3/2'; shards count from 1: give 1/2 to 2/2\n"
    assert not (tmp_path / "s").exists()


def test_open_in_turn__waits_and_says_so(tmp_path, held_elsewhere):
    card, said = external_card("four", 4), []
    EdgeStore(tmp_path).create("four", card).close()
    with held_elsewhere(tmp_path, "four") as let_go:

        def waiting(text: str) -> None:
            said.append(text)
            let_go()

        open_in_turn(EdgeStore(tmp_path), "four", card, Layout(), waiting).close()
    assert len(said) == 1
    assert "waiting for it" in said[0]
