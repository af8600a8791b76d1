"""A collection embedded again by another encoder: beside it, behind its alias, and interrupted."""

import json
import shutil

import numpy as np
import pytest
import torch
from builders import contents, copied
from pictures import write_picture, write_table
from qdrant_client import QdrantClient

from cbmir.collections.transfer import transfer
from cbmir.collections.versions import begin, promote, rollback, versions
from cbmir.encoders import EncoderSettings, get
from cbmir.errors import CollectionError, FingerprintError, StoreError
from cbmir.fingerprint import external_card
from cbmir.ingest import ingest_images, open_source
from cbmir.ingest.reindex.reindex import StoredSource, check_target, open_target
from cbmir.ingest.report import Failure, IngestReport
from cbmir.media import decode, preprocess
from cbmir.schema import INDEXED_FIELDS, EmbeddedBatch, ImageRecord
from cbmir.store import Layout, open_store
from cbmir.store.server import ServerStore

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.slow

COUNT = 12
LATE = ImageRecord(filepath="late.png", dataset="d")
NETWORK = "timm:test_vit"
SMALL = "small.pt"
"""A file of weights for it, which are not at the hub."""


@pytest.fixture(scope="module")
def pixels():
    return get("pixels")


@pytest.fixture(scope="module")
def network(made):
    return get(NETWORK, EncoderSettings(made / "data" / SMALL, device="cpu", precision="fp32"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, pixels):
    """Pictures, and a directory with a collection `made` of them that says more of the first one."""
    folder = tmp_path_factory.mktemp("made")
    table = write_table(folder / "data", COUNT)
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), folder / "data" / SMALL)
    with open_store(folder / "store") as store, store.create("made", pixels.card) as collection:
        assert ingest_images(open_source(table), pixels, collection, 1).stored == COUNT
        first = next(iter(contents(collection)))
        collection.set_payloads({first: {"thumbnail_url": "https://x/y.jpg", "extra": {"kernel": {"name": "B30f"}}}})
    return folder


@pytest.fixture
def data(made, tmp_path):
    """A copy of the pictures and of the weights."""
    return shutil.copytree(made / "data", tmp_path / "data")


@pytest.fixture
def server(made, monkeypatch):
    """A server with the collection `made`, behind the URL http://memory."""
    store = ServerStore.over(QdrantClient(":memory:"), "http://memory")
    monkeypatch.setattr(store, "close", lambda: None)
    monkeypatch.setattr("cbmir.options.open_store", lambda *_: store)
    with (
        open_store(made / "store") as local,
        local.open("made") as source,
        store.create("made", source.card) as collection,
    ):
        assert transfer(source, collection).written == COUNT
    return store


def payloads(store, name):
    with store.open(name) as collection:
        return {id: payload for id, (payload, _) in contents(collection).items()}


def reindex(cbmir, data, *arguments, store="http://memory", code=0):
    """`cbmir ingest reindex made ... --json`; gives its report and what it said."""
    failures = data / "failures.csv"
    network = ("--encoder", NETWORK, "--weights", data / SMALL, "--device", "cpu", "--precision", "fp32")
    done = cbmir(
        *(
            "ingest",
            "reindex",
            "made",
            "--store",
            store,
            "--root",
            data,
            "--failures",
            failures,
            "--workers",
            1,
            "--json",
        ),
        *(arguments if "--encoder" in arguments else (*network, *arguments)),
    )
    assert done.returncode == code, done.stderr
    if code in (1, 2):
        assert done.stdout == ""
        return done.stderr
    report = json.loads(done.stdout)
    assert report["read"] == report["stored"] + report["skipped"] + report["failed"]
    return report, done.stderr


def leads_to(server):
    return server.aliases()["made"]


def test_reindex__beside_the_old_then_promoted(server, data, network, cbmir):
    before = payloads(server, "made")
    report, said = reindex(cbmir, data)
    assert (report["collection"], report["stored"], report["failed"]) == ("made__v2", COUNT, 0)
    assert report["fingerprint"] == network.card.fingerprint
    assert "made -> made__v2, which holds 0 images" in said
    assert leads_to(server) == "made__v1"
    assert payloads(server, "made__v2") == before  # thumbnails, hashes and extra fields go along
    with server.open("made__v2") as new, server.open("made") as old:
        assert (new.card.name, old.card.name) == (NETWORK, "pixels")
        found = list(contents(new).values())
    pictures = [decode((data / payload["filepath"]).read_bytes()) for payload, _ in found]
    want = network.embed(np.stack([preprocess(picture, network.preprocessing) for picture in pictures]))
    np.testing.assert_allclose([np.frombuffer(vector, np.float32) for _, vector in found], want, atol=1e-5)
    again, said = reindex(cbmir, data, "--promote")
    assert (again["collection"], again["stored"], again["skipped"]) == ("made__v2", 0, COUNT)
    assert f"which holds {COUNT} images" in said
    assert said.endswith("made is made__v2 now\n")
    assert leads_to(server) == "made__v2"
    rollback(server, "made")
    assert payloads(server, "made") == before


def test_reindex__a_killed_run_goes_on_in_the_same_version(server, data, network, monkeypatch):
    with server.open("made") as old, open_target(server, old, network.card, None, Layout()) as new:
        assert new.name == "made__v2"
        source = StoredSource(old, data)
        write, left = new._write, [1]
        monkeypatch.setattr("cbmir.ingest.pipeline.MIN_BATCH", {"image": 4})

        def broken(batch):
            if not left[0]:
                raise StoreError("the line is cut")
            left[0] -= 1
            write(batch)

        monkeypatch.setattr(new, "_write", broken)
        network.batch_size, before = 4, network.batch_size
        try:
            with pytest.raises(StoreError, match="the line is cut"):
                ingest_images(source, network, new, 1)
        finally:
            network.batch_size = before
        assert 0 < new.count() < COUNT
        done = new.count()
        with open_target(server, old, network.card, None, Layout()) as again:
            assert again.name == "made__v2"
            report = ingest_images(source, network, again, 1)
        assert (report.skipped, report.stored) == (done, COUNT - done)
    assert len(versions(server, "made")) == 2


def test_begin__takes_up_only_what_may_be_gone_on_with(server, network, pixels):
    other = external_card("other", 8)
    assert begin(server, "made", network.card) == "made__v2"
    fill(server, "made__v2", network.card)
    assert begin(server, "made", network.card, resume=True) == "made__v2"
    assert begin(server, "made", network.card) == "made__v3"  # without resume only an empty one is taken up
    assert begin(server, "made", other, resume=True) == "made__v4"  # of another encoder
    fill(server, "made__v4", other)
    promote(server, "made__v4")
    assert begin(server, "made", pixels.card, resume=True) == "made__v5"  # v1 is what one may want to go back to


def test_begin__makes_the_indexes_of_an_empty_version_again(server, network, monkeypatch):
    """Whoever was killed while it made them has left some out."""
    begin(server, "made", network.card)
    indexed = []
    monkeypatch.setattr(server.client, "create_payload_index", lambda name, field, *_, **__: indexed.append(field))
    assert begin(server, "made", network.card, resume=True) == "made__v2"
    assert indexed == [field.name for field in INDEXED_FIELDS]


def fill(server, name, card, records=(LATE,)):
    with server.open(name) as collection:
        vectors = np.eye(len(records), card.dim, dtype=np.float32)
        collection.upsert(EmbeddedBatch(tuple(records), vectors, card.fingerprint))


def test_reindex__failures_are_counted_and_hinder_the_promotion(server, data, pixels, cbmir):
    (data / "images/00002.png").unlink()
    (data / "images/00005.png").write_bytes(b"no picture")
    (data / "ct.nii.gz").write_bytes(b"NRRD0005\n")
    strange = [
        ImageRecord(filepath="s3://bucket/a.png", dataset="d"),
        ImageRecord(filepath="ct.nii.gz", dataset="d", kind="volume"),
    ]
    fill(server, "made", pixels.card, strange)
    report, said = reindex(cbmir, data, "--promote", code=3)
    assert (report["stored"], report["failed"]) == (COUNT - 2, 4)
    reasons = {item["filepath"]: item["reason"] for item in report["failures"]}
    assert reasons["s3://bucket/a.png"] == f"is a URI without a file below {data}"
    assert "is a volume" in reasons["ct.nii.gz"]
    assert reasons.keys() >= {"images/00002.png", "images/00005.png"}
    assert said.endswith(
        f"not promoted: 4 of {COUNT + 2} images failed; made stays as it was. To promote all the same: "
        "cbmir collections promote made__v2 --store http://memory\n"
    )
    assert leads_to(server) == "made__v1"
    assert len((data / "failures.csv").read_text().splitlines()) == 5
    write_picture(data / "images/00002.png", 2)
    write_picture(data / "images/00005.png", 5)
    with server.open("made") as collection:
        collection.delete([record.id for record in strange])
    report, said = reindex(cbmir, data, "--promote")
    assert (report["stored"], report["skipped"]) == (2, COUNT - 2)
    assert leads_to(server) == "made__v2"


def test_reindex__images_that_came_or_went_hinder_the_promotion(server, data, network, pixels, monkeypatch, cbmir):
    records = [ImageRecord.from_payload(payload) for payload in payloads(server, "made").values()]
    fill(server, begin(server, "made", network.card), network.card, records)
    with server.open("made") as collection:
        gone = next(iter(contents(collection)))
        collection.delete([gone])
    _, said = reindex(cbmir, data, "--promote", code=3)
    assert "not promoted: no longer in made: 1 image of made__v2" in said
    with server.open("made__v2") as new:
        new.delete([gone])

    def meanwhile(source, encoder, collection, *arguments):
        report = ingest_images(source, encoder, collection, *arguments)
        fill(server, "made", pixels.card)
        return report

    monkeypatch.setattr("cbmir.ingest.reindex.cli.ingest_images", meanwhile)
    _, said = reindex(cbmir, data, "--promote", code=3)
    assert "not promoted: made has changed meanwhile; run the same command again" in said
    assert leads_to(server) == "made__v1"


def test_reindex__a_file_that_changed_is_embedded_as_it_is_now(server, data, cbmir):
    before = payloads(server, "made")
    write_picture(data / "images/00003.png", 999)
    reindex(cbmir, data, "--promote")
    after = payloads(server, "made")
    changed = [id for id in before if before[id] != after[id]]
    assert [before[id]["filepath"] for id in changed] == ["images/00003.png"]
    assert {name for name in before[changed[0]] if before[changed[0]][name] != after[changed[0]][name]} == {"sha256"}


def test_reindex__interrupted_promotes_nothing(server, data, monkeypatch, cbmir):
    def stopped(source, encoder, collection, *_):
        return IngestReport(collection.name, encoder.card.name, encoder.card.fingerprint, interrupted=True)

    monkeypatch.setattr("cbmir.ingest.reindex.cli.ingest_images", stopped)
    _, said = reindex(cbmir, data, "--promote", code=130)
    assert "run the same command again to go on" in said
    assert leads_to(server) == "made__v1"


def test_reindex__of_a_directory_needs_another_name(made, data, network, tmp_path, cbmir):
    store = copied(made / "store", tmp_path / "store")
    said = reindex(cbmir, data, store=store, code=1)
    assert "is a directory: it has no versions; make a collection of another name: give --as NAME" in said
    report, said = reindex(cbmir, data, "--as", "net", store=store)
    assert (report["collection"], report["stored"], report["failed"]) == ("net", COUNT, 0)
    with open_store(store) as opened:
        assert payloads(opened, "net") == payloads(opened, "made")
        with opened.open("net") as collection:
            assert collection.card == network.card
    said = reindex(cbmir, data, "--as", "net", "--encoder", "pixels", store=store, code=1)
    assert f"collection net holds vectors of {NETWORK}" in said
    said = reindex(cbmir, data, "--as", "made", store=store, code=1)
    assert "made can't be embedded into itself; give --as another name" in said
    said = reindex(cbmir, data, "--as", "net", "--promote", store=store, code=2)
    assert "--promote is for the next version of NAME, --as for a collection beside it" in said


def test_open_target__on_a_server_under_another_name_too(server, network):
    check_target(server, "made", "net")
    for _ in range(2):
        with server.open("made") as old, open_target(server, old, network.card, "net", Layout()) as new:
            assert (new.name, new.card) == ("net", network.card)
    assert server.aliases() == {"made": "made__v1", "net": "net__v1"}


def test_reindex__refuses_what_makes_no_sense(server, data, pixels, cbmir):
    said = reindex(cbmir, data, "--encoder", "pixels", code=1)
    assert f"made holds vectors of pixels (fingerprint {pixels.card.fingerprint}) already" in said
    with pytest.raises(CollectionError, match=r"made__v1 has no versions on .*: give --as NAME"):
        check_target(server, "made__v1", None)
    with server.open("made") as old, pytest.raises(FingerprintError):
        open_target(server, old, external_card("other", 8), "made", Layout())
    assert server.versions("made") == {"made__v1"}


def test_stored_source__a_point_that_is_no_image_is_a_failure(made, tmp_path):
    store = copied(made / "store", tmp_path / "store")
    with open_store(store) as opened, opened.open("made") as collection:
        first, second = list(contents(collection))[:2]
        collection.set_payloads({first: {"dataset": "another"}, second: {"split": "none"}})
        items = list(StoredSource(collection, tmp_path))
    failures = [item for item in items if isinstance(item, Failure)]
    assert len(items) == COUNT
    assert len(failures) == 2
    assert "isn't ours" in failures[0].reason
    assert "split 'none'" in failures[1].reason
