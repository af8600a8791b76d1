"""The key of a server stays in the environment: no output, log, file or process title repeats it."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from answers import refusing, served
from builders import data_of
from grpc import StatusCode
from PIL import Image
from standin import Standin
from standin_rest import Rest

pytestmark = pytest.mark.slow

KEY = "a-secret-key-0123456789"
OTHER = "another-secret-key-9876543210"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Standin]:
    with Standin(tmp_path_factory.mktemp("server"), KEY, rest_handler=Rest) as made:
        yield made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(24):
        place = folder / ("train", "val", "test")[number % 3] / "CT" / "chest" / ("nodule", "mass")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 10 + number).save(place / f"{number}.png")
    return folder


def _left_nothing(folder: Path) -> int:
    """How many files there are; none holds the key."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert [file for file in files if any(KEY.encode() in part for part in data_of(file).values())] == []
    return len(files)


def test_key__in_no_output_log_or_file(server, pictures, shelf, tmp_path, cbmir, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    stored = ("--store", server.url)
    commands = [
        ("collections", "list", *stored, "--json"),
        ("ingest", "images", pictures, "--encoder", "pixels", *stored, "--workers", "1", "--json"),
        ("collections", "show", "pixels", *stored, "--json"),
        ("collections", "versions", "pixels", *stored, "--json"),
        ("collections", "promote", "pixels__v1", *stored),
        ("collections", "push", "eight", "--store", shelf, "--to", server.url, "--json"),
        ("collections", "pull", "pixels", *("--store", tmp_path / "copy"), "--from", server.url, "--json"),
        ("collections", "export", "pixels", *stored, "--out", tmp_path / "files"),
        ("collections", "snapshot", "eight", *stored, "--out", tmp_path / "backup", "--json"),
        ("collections", "restore", tmp_path / "backup", *stored, "--as", "copy", "--json"),
        ("collections", "prune", "pixels", *stored, "--root", pictures, "--json"),
        ("search", "image", pictures / "test/CT/chest/nodule/2.png", *stored, "--collection", "pixels", "--json"),
        ("evaluate", "retrieval", *stored, "--collection", "pixels", "--out", tmp_path / "rows.csv", "--json"),
        ("doctor", *stored, "--json"),
        ("collections", "drop", "eight", *stored, "--yes"),
    ]
    for command in commands:
        done = cbmir(*command, QDRANT_API_KEY=KEY, QDRANT_TO_API_KEY=KEY, QDRANT_FROM_API_KEY=KEY)
        assert done.returncode == 0, (command, done.stderr)
        assert KEY not in done.stdout + done.stderr
    assert KEY not in caplog.text
    assert caplog.records  # the log was on
    assert _left_nothing(tmp_path) > 5
    assert _left_nothing(server.root) > 5


def test_key__in_no_error(server, tmp_path, cbmir, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("time.sleep", lambda _: None)
    wrong = cbmir("collections", "list", "--store", server.url, QDRANT_API_KEY=OTHER)
    assert "refuses the key" in wrong.stderr
    silent = cbmir("doctor", "--store", "http://127.0.0.1:1", "--json", QDRANT_API_KEY=OTHER)
    assert silent.returncode == 1
    in_url = f"http://user:{OTHER}@127.0.0.1:1"
    url = cbmir("collections", "list", "--store", in_url, QDRANT_API_KEY=OTHER)
    bad_url = cbmir("collections", "list", "--store", f"http://user:{OTHER}@host:port", QDRANT_API_KEY=OTHER)
    with served(List=refusing(StatusCode.UNAVAILABLE, "restarting")) as (busy, _):
        retried = cbmir("collections", "list", "--store", busy, QDRANT_API_KEY=OTHER)
    missing = cbmir("collections", "show", "nothing", "--store", server.url, QDRANT_API_KEY=KEY)
    for done in (wrong, silent, url, bad_url, retried, missing):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert OTHER not in done.stdout + done.stderr
        assert KEY not in done.stdout + done.stderr
    assert OTHER not in caplog.text
    assert KEY not in caplog.text


def test_key__in_no_process_title(server, pictures, tmp_path):
    command = ("ingest", "images", pictures, "--encoder", "pixels", "--collection", "titles", "--store", server.url)
    environment = {**os.environ, "QDRANT_API_KEY": KEY}
    titles: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "cbmir", *map(str, command)],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as child:  # fmt: skip
        process = psutil.Process(child.pid)
        while child.poll() is None:
            for item in [process, *_children(process)]:
                titles |= _titles(item)
            time.sleep(0.01)
        assert child.stdout is not None
        said = child.stdout.read().decode()
    assert child.returncode == 0, said
    assert KEY not in said
    assert len(titles) >= 3  # its own, and those of decoders
    assert [title for title in titles if KEY in title] == []


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _titles(process: psutil.Process) -> set[str]:
    try:
        return {process.name(), " ".join(process.cmdline())}
    except psutil.Error:
        return set()
