"""Ingest of image files, end to end on the embedded engine."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import contents_of, until
from pictures import LABELS, command, environment, write_picture, write_table

from cbmir.encoders import EncoderSettings, get
from cbmir.errors import FingerprintError
from cbmir.fingerprint import external_card
from cbmir.ingest import SourceOptions, ingest_images, open_source
from cbmir.ingest.loader import Loader, chunk_size
from cbmir.ingest.loading import Wanted, load_image
from cbmir.media import Asset, Preprocessing, VolumePreprocessing
from cbmir.store import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def encoder():
    return get("pixels")


def ingest(source, store, encoder, options=None, workers=2):
    with open_store(store) as opened, opened.open_or_create("pixels", encoder.card) as collection:
        return ingest_images(open_source(source, options), encoder, collection, workers)


def stored_in(folder):
    return contents_of(folder / "store", "pixels")


def test_ingest_images__stores_all_with_payload_and_hash(tmp_path, encoder):
    table = write_table(tmp_path / "data", 30)
    report = ingest(table, tmp_path / "store", encoder)
    assert (report.read, report.stored, report.skipped, report.failed) == (30, 30, 0, 0)
    stored = stored_in(tmp_path)
    payload = next(payload for payload, _ in stored.values() if payload["filepath"] == "images/00001.png")
    assert payload["labels"] == [LABELS[1]]
    assert (payload["modality"], payload["anatomic_region"], payload["pathology"]) == ("CT", "lung", ["nodule"])
    assert (payload["width"], payload["height"], payload["patient_id"]) == (40, 48, "p0")
    assert len(payload["sha256"]) == 64


def test_ingest_images__second_run_decodes_nothing(tmp_path, encoder):
    table = write_table(tmp_path / "data", 30)
    ingest(table, tmp_path / "store", encoder)
    before = stored_in(tmp_path)
    again = ingest(table, tmp_path / "store", encoder)
    assert (again.stored, again.skipped, again.updated) == (0, 30, 0)
    assert again.seconds["encode"] == 0.0
    assert stored_in(tmp_path) == before


def test_ingest_images__changed_file_is_embedded_again(tmp_path, encoder):
    table = write_table(tmp_path / "data", 10)
    ingest(table, tmp_path / "store", encoder)
    before = stored_in(tmp_path)
    write_picture(tmp_path / "data/images/00003.png", 999)
    again = ingest(table, tmp_path / "store", encoder)
    assert (again.stored, again.skipped) == (1, 9)
    after = stored_in(tmp_path)
    changed = [id for id in before if before[id] != after[id]]
    assert [after[id][0]["filepath"] for id in changed] == ["images/00003.png"]


def test_ingest_images__corrected_table_updates_the_payload_without_encoding(tmp_path, encoder):
    table = write_table(tmp_path / "data", 8)
    ingest(table, tmp_path / "store", encoder)
    table.write_text(table.read_text().replace("CT/lung/nodule", "CT/lung/cyst"))
    again = ingest(table, tmp_path / "store", encoder)
    assert (again.stored, again.skipped, again.updated) == (0, 8, 2)
    stored = [payload for payload, _ in stored_in(tmp_path).values() if payload["modality"] == "CT"]
    assert {(p["primary_label"], *p["pathology"]) for p in stored} == {("CT/lung/cyst", "cyst")}


def test_ingest_images__refuses_a_collection_of_another_encoder(tmp_path, encoder):
    table = write_table(tmp_path / "data", 2)
    with open_store(tmp_path / "store") as store, store.create("pixels", external_card("other", 8)) as collection:
        with pytest.raises(FingerprintError) as error:
            ingest_images(open_source(table), encoder, collection)
        assert encoder.card.fingerprint in str(error.value)
        assert collection.card.fingerprint in str(error.value)


def test_ingest_images__even_pictures_are_counted_with_a_reason(tmp_path, encoder):
    from PIL import Image

    Image.new("L", (8, 8), 77).save(tmp_path / "even.png")
    write_picture(tmp_path / "fine.png", 1)
    report = ingest(tmp_path, tmp_path.parent / f"{tmp_path.name}-store", encoder)
    assert (report.read, report.stored, report.failed) == (2, 1, 1)
    assert "no vector" in report.failures[0].reason


def test_ingest_images__network_and_query_share_one_preprocessing(tmp_path):
    from cbmir.search import Options, Searcher

    table = write_table(tmp_path / "data", 12)
    network = get("efficientnet-lite0-untrained", EncoderSettings(device="cpu"))
    with open_store(tmp_path / "store") as store, store.create("net", network.card) as collection:
        ingest_images(open_source(table), network, collection, 1)
    with Searcher(tmp_path / "store", "net") as searcher:
        top = searcher.image(tmp_path / "data/images/00005.png", Options(k=1, exclude_same_patient=False))[0]
    assert top.payload["filepath"] == "images/00005.png"
    assert top.score == pytest.approx(1.0, abs=1e-5)


def test_ingest_images__command_reports_and_leaves_with_3_when_some_failed(tmp_path, cbmir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path / "data", 6)
    (tmp_path / "data/images/00002.png").write_bytes(b"no picture")
    (tmp_path / "data/images/00004.png").unlink()
    done = cbmir(*("ingest", "images", table, "--encoder", "pixels", "--store", tmp_path / "store", "--json"))
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["read"] == 6 == report["stored"] + report["skipped"] + report["failed"]
    assert {item["filepath"] for item in report["failures"]} == {"images/00002.png", "images/00004.png"}
    assert report["bottleneck"] in report["seconds"]
    lines = (tmp_path / "failures-pixels.csv").read_text().splitlines()
    assert lines[0] == "filepath,place,reason"
    assert len(lines) == 3


def test_ingest_images__two_data_sets_share_a_collection(tmp_path, encoder):
    for name in ("one", "two"):
        write_picture(tmp_path / name / "a.png", 1)
        ingest(tmp_path / name, tmp_path / "store", encoder, SourceOptions(dataset=name))
    assert sorted(payload["dataset"] for payload, _ in stored_in(tmp_path).values()) == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ingest_images__interrupt_finishes_what_is_in_hand_and_goes_on_later(tmp_path, number, cbmir):
    table = write_table(tmp_path / "data", 1500)
    store = tmp_path / "store"
    arguments = command("ingest", "images", table, "--encoder", "pixels", "--store", store, "--workers", "1")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path)
    until((store / "pixels" / "collection.json").exists)  # the first batch is there, most others are not
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    assert "Traceback" not in said
    assert process.returncode == 130, said
    assert "run the same command again" in said
    done = cbmir(*arguments[3:], "--json")
    report = json.loads(done.stdout)
    assert report["failed"] == 0
    assert report["stored"] + report["skipped"] == 1500
    assert report["skipped"] > 0


PLAIN = Preprocessing((8, 8), "squash", 8, "bilinear", (0.0,), (1.0,), channels=1)


@pytest.mark.parametrize("nameless", [True, False])
def test_loader__keeps_the_order_and_reports_each(nameless, tmp_path, monkeypatch):
    if not nameless:
        monkeypatch.delattr(os, "memfd_create", raising=False)  # as on macOS
    paths = [write_picture(tmp_path / f"{number}.png", number) for number in range(40)]
    paths[7].write_bytes(b"")
    with Loader(PLAIN, 2) as loader:
        chunks = [[(path, Wanted(Asset(path), None)) for path in paths[start : start + 5]] for start in range(0, 40, 5)]
        both = [pair for chunk in loader.load(chunks) for pair in chunk]
    assert [path for path, _ in both] == paths
    loaded = [item for _, item in both]
    assert [item.reason for item in loaded if item.reason] == ["is empty"]
    assert len({item.sha256 for item in loaded}) == 40
    assert loader.decode_s > 0
    for path, item in zip(paths, loaded, strict=True):
        np.testing.assert_equal(item.pixels, load_image(Wanted(Asset(path), None), PLAIN).pixels)


def test_chunk_size__holds_fewer_large_pictures():
    assert chunk_size(PLAIN) == 16
    assert chunk_size(replace(PLAIN, input_px=(1024, 1024), channels=3, resize="pad")) == 2
    assert chunk_size(VolumePreprocessing(input_voxels=(8, 8, 8), window_hu=(0.0, 1.0), fit="squash")) == 1
    assert chunk_size(replace(PLAIN, input_px=(9000, 9000))) == 1


def test_loader__survives_the_death_of_a_worker(tmp_path):
    paths = [write_picture(tmp_path / f"{number}.png", number) for number in range(30)]
    with Loader(PLAIN, 1) as loader:
        stream = loader.load([[(None, Wanted(Asset(path), None))] for path in paths])
        loaded = next(stream)
        for process in list(loader._pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        for chunk in stream:
            loaded += chunk
    assert len(loaded) == 30
    assert all(item.pixels is not None for _, item in loaded)


def test_loader__workers_end_with_a_killed_parent(tmp_path):
    write_picture(tmp_path / "1.png", 1)
    code = (
        "import sys, time; from cbmir.ingest.loader import *; from cbmir.media import Asset, Preprocessing\n"
        "if __name__ == '__main__':\n"
        "    how = Preprocessing((8, 8), 'squash', 8, 'bilinear', (0.0,), (1.0,), channels=1)\n"
        "    loader = Loader(how, 2); list(loader.load([[(0, Wanted(Asset(sys.argv[1]), None))]]))\n"
        "    print(*(p.pid for p in loader._pool._processes.values()), flush=True); time.sleep(600)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "1.png")], stdout=subprocess.PIPE, text=True, env=environment()
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    assert len(workers) == 2
    until(lambda: not any(alive(pid) for pid in workers))


def test_loader__does_not_run_the_script_that_starts_it_again(tmp_path):
    write_picture(tmp_path / "1.png", 1)
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import sys; from cbmir.ingest.loader import *; from cbmir.media import Asset, Preprocessing\n"
        "print('run', __name__, flush=True)\n"
        "with Loader(Preprocessing((8, 8), 'squash', 8, 'bilinear', (0.0,), (1.0,), channels=1), 2) as loader:\n"
        "    chunks = [[(0, Wanted(Asset(sys.argv[1]), None))]] * 9\n"
        "    print([item.width for part in loader.load(chunks) for _, item in part])\n"
        "assert sys.modules['__main__'].__file__ == sys.argv[0]\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "1.png")],
        capture_output=True, text=True, env=environment(), timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["run __main__", str([40] * 9)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_default_name__is_fit_for_a_collection():
    from cbmir.store.identity import default_name

    assert default_name("open_clip:ViT-B-32/openai") == "open_clip-ViT-B-32-openai"
    assert default_name("efficientnet-lite0") == "efficientnet-lite0"


def test_contents__vectors_are_unit_length(tmp_path, encoder):
    ingest(write_table(tmp_path / "data", 5), tmp_path / "store", encoder)
    for _, vector in stored_in(tmp_path).values():
        assert np.linalg.norm(np.frombuffer(vector, np.float32)) == pytest.approx(1.0, abs=1e-6)
