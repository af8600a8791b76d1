"""By what an encoder is known again: its hash, and else the vectors of the probes."""

import base64
import hashlib
import hmac
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import write_picture
from standin import Standin

from cbmir.device import Placement
from cbmir.encoders import EncoderSettings, EncoderSpec, get
from cbmir.encoders.needed import recognise
from cbmir.encoders.network import TorchEncoder, encoder
from cbmir.encoders.probes import TEXTS, images, preprocessed, probe_vectors, volume
from cbmir.encoders.volumes import VolumeEncoder
from cbmir.errors import EncoderError, FingerprintError
from cbmir.fingerprint import EncoderCard, external_card
from cbmir.media import Preprocessing, VolumePreprocessing
from cbmir.probevectors import SAME_COSINE, ProbeVectors
from cbmir.store import open_store
from cbmir.store.edge import EdgeStore

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.slow

CPU = EncoderSettings(device="cpu", precision="fp32")
LITE0 = "efficientnet-lite0"
HOW = Preprocessing((32, 32), "shortest", 36, "bilinear", (0.5,) * 3, (0.25,) * 3)
SPEC = EncoderSpec(name="made", architecture="made", source="none", licence="none", trained_on="nothing")


class Small(torch.nn.Module):
    """A network whose parameter has the name it is given, as in another release of its library."""

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.add_module(name, torch.nn.Conv2d(3, 12, 8, 8))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        (layer,) = self.children()
        return layer(pixels).relu().flatten(1)


def _small(name: str = "fc", how: Preprocessing = HOW, seed: int = 0) -> TorchEncoder:
    return encoder(SPEC, Small(name, seed), how, CPU)


def _stored(card: EncoderCard) -> EncoderCard:
    """A card as it comes back out of a collection."""
    return EncoderCard.from_json(card.as_json()).noted(json.loads(json.dumps(card.notes())))


# the probes


def test_images__are_the_same_everywhere():
    """Whoever changes them counts `VERSION` up: stored vectors are of these."""
    digest = hashlib.sha256()
    sizes = []
    for image in images():
        digest.update(image.tobytes())
        sizes.append(image.size)
        assert image.mode == "RGB"
        assert np.asarray(image).std() > 4
    assert sizes == [(512, 512), (640, 480), (479, 641), (333, 401), (401, 257), (224, 225), (831, 613), (97, 131)]
    assert digest.hexdigest() == "bc27fb434967d35dad25f682451d2e6838575129de9f92f93f13a2c072ee2c8b"


def test_volume__is_the_same_everywhere():
    made = volume()
    assert (made.values.dtype, made.values.shape, made.spacing_mm) == (np.float32, (110, 96, 70), (0.9, 1.1, 2.5))
    assert (
        hashlib.sha256(made.values.astype("<f4").tobytes()).hexdigest()
        == "492eb726065d6ed8a1c1edf7c12162bc985a5af41b393b6028ea3889befa6e80"
    )


def test_probes__have_texture_at_the_scale_of_every_part():
    """No 16 x 16 part of an image is even, so that no crop leaves the vectors as they are."""
    for image in images():
        values = np.asarray(image.convert("L")).astype(float)
        height, width = (side // 16 * 16 for side in values.shape)
        parts = values[:height, :width].reshape(height // 16, 16, width // 16, 16).std(axis=(1, 3))
        assert parts.min() > 0.5


# the form in the card


def test_probe_vectors__come_back_as_they_were():
    vectors = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    made = ProbeVectors(lambda: vectors, lambda: vectors[:4])
    data = json.loads(json.dumps(made.as_json()))
    assert base64.b64decode(data["images"]) == vectors.astype("<f4").tobytes()
    back = ProbeVectors.from_json(data, 5)
    np.testing.assert_array_equal(back.images, vectors)
    np.testing.assert_array_equal(back.texts, vectors[:4])
    assert "texts" not in ProbeVectors(lambda: vectors, lambda: None).as_json()


@pytest.mark.parametrize(
    "data",
    [
        *(None, [], "x", {}, {"version": 1}, {"version": 1, "images": 3}, {"version": 1, "images": ""}),
        {"version": 1, "images": "no base64!"},
        {"version": 1, "images": base64.b64encode(b"1234567").decode()},
        {"version": 1, "images": base64.b64encode(np.full(10, np.nan, "<f4").tobytes()).decode()},
        {"version": 2, "images": base64.b64encode(bytes(40)).decode()},
    ],
)
def test_probe_vectors__what_can_not_be_read_is_none(data):
    assert ProbeVectors.from_json(data, 5) is None


def test_lowest_cosines__of_images_and_texts():
    one = ProbeVectors(lambda: np.eye(2, dtype=np.float32), lambda: np.eye(2, dtype=np.float32))
    turned = np.array([[1, 0], [0.6, 0.8]], np.float32)
    other = ProbeVectors(lambda: np.eye(2, dtype=np.float32), lambda: turned)
    assert one.lowest_cosines(other) == {"images": 1.0, "texts": pytest.approx(0.8)}
    none = ProbeVectors(lambda: np.eye(3, dtype=np.float32), lambda: None)
    assert one.lowest_cosines(none) == {"images": -1.0}
    broken = ProbeVectors(lambda: np.full((2, 2), np.nan, np.float32), lambda: None)
    assert one.lowest_cosines(broken) == {"images": -1.0}


# known again, or not


def test_require__a_renamed_parameter_is_accepted_and_said_once(caplog):
    old, new = _stored(_small("fc").card), _small("linear").card
    assert old.weights != new.weights
    for _ in range(2):
        old.require(new, "collection c")
    (record,) = caplog.records
    assert "collection c: made counts as the same encoder, though the weights differ" in record.message
    assert old.weights[:19] in record.message
    assert new.weights[:19] in record.message
    assert "1.0000000 of images" in record.message


def test_require__vectors_at_the_edge():
    """Cosines of .99999 and of a little less."""
    base = _small("fc").card
    vectors = base.probes.images.astype(np.float64)
    across = np.roll(vectors, 1, axis=1)
    across -= (across * vectors).sum(1, keepdims=True) * vectors
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    for cosine, same in ((0.999991, True), (0.999989, False)):
        turned = (cosine * vectors + np.sqrt(1 - cosine**2) * across).astype(np.float32)
        other = replace(base, weights="sha256:other", probes=ProbeVectors(lambda turned=turned: turned, lambda: None))
        if same:
            base.require(other, "c")
            continue
        with pytest.raises(FingerprintError, match=r"0\.999989"):
            base.require(other, "c")


@pytest.mark.parametrize(
    "how",
    [
        replace(HOW, resize_px=37),
        replace(HOW, crop="floor"),
        replace(HOW, resize="squash"),
        replace(HOW, interpolation="bicubic"),
        replace(HOW, mean=(0.51, 0.5, 0.5)),
        replace(HOW, std=(0.26, 0.25, 0.25)),
        replace(HOW, scaling="minmax"),
    ],
    ids=["resize", "crop", "squash", "interpolation", "mean", "std", "window"],
)
def test_require__another_preprocessing_is_refused_with_equal_and_with_other_weights(how):
    old = _stored(_small("fc").card)
    for name in ("fc", "linear"):
        with pytest.raises(
            FingerprintError, match=r"they differ in .*preprocessing; lowest cosine of the probe vectors"
        ):
            old.require(_small(name, how).card, "c")


def test_require__a_mean_written_with_fewer_digits_is_the_same():
    old = _stored(_small("fc", replace(HOW, mean=(0.48145466, 0.5, 0.5))).card)
    old.require(_small("linear", replace(HOW, mean=(0.4814547, 0.5, 0.5))).card, "c")


def test_require__another_name_or_text_tower_is_refused():
    old = _small("fc").card
    with pytest.raises(FingerprintError, match="they differ in name"):
        old.require(replace(_small("linear").card, name="other"), "c")
    towers = [
        ProbeVectors(lambda: old.probes.images, lambda shift=shift: np.roll(old.probes.images[:4], shift, 1))
        for shift in (0, 1)
    ]
    with pytest.raises(FingerprintError, match="of texts"):
        replace(old, probes=towers[0]).require(replace(old, weights="sha256:x", probes=towers[1]), "c")


def test_require__without_probe_vectors_the_hash_decides():
    old = replace(_small("fc").card, probes=None)
    old.require(_small("fc").card, "c")
    with pytest.raises(FingerprintError, match="it has no probe vectors"):
        old.require(_small("linear").card, "c")


def test_probe_vectors__of_a_text_tower_that_is_not_here_are_left_out():
    def missing():
        raise EncoderError("no tokenizer")

    vectors = probe_vectors(HOW, _small().embed_exact, missing)
    assert vectors.texts is None
    asked = []
    vectors = probe_vectors(HOW, _small().embed_exact, lambda: lambda texts: asked.extend(texts) or np.eye(4, 9))
    assert vectors.texts.shape == (4, 9)
    assert tuple(asked) == TEXTS


def test_embed_exact__is_float32_whatever_the_encoder_runs_in():
    pixels = preprocessed(HOW)
    torch.manual_seed(0)
    exact = Small("fc")(torch.from_numpy((pixels / 255 - 0.5) / 0.25).float().permute(0, 3, 1, 2)).detach().numpy()
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    for precision in ("fp32", "bf16"):
        made = encoder(SPEC, Small("fc"), HOW, EncoderSettings(device="cpu", precision=precision))
        made.embed(pixels)
        np.testing.assert_allclose(made.card.probes.images, exact, atol=2e-6)


@pytest.mark.parametrize("training", [True, False], ids=["batch norm learns", "frozen batch norm"])
def test_require__one_training_step_of_a_real_network_is_refused(tmp_path, training):
    base = get(LITE0, CPU)
    network = base._network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train(training)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    torch.manual_seed(1)
    pictures, classes = torch.randn(4, 3, 224, 224), torch.tensor([0, 1, 2, 3])
    loss = torch.nn.functional.cross_entropy(network(pictures)[:, :10], classes)
    loss.backward()
    torch.optim.AdamW(network.parameters(), lr=1e-5).step()
    after = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    network.eval().load_state_dict(before)
    torch.save(after, tmp_path / "stepped.pt")
    stepped = get(LITE0, EncoderSettings(tmp_path / "stepped.pt", device="cpu"))
    with pytest.raises(FingerprintError, match="they differ in weights") as caught:
        _stored(base.card).require(stepped.card, "c")
    assert all(text in str(caught.value) for text in (base.card.weights[:19], stepped.card.weights[:19], "cosine"))
    torch.save(before, tmp_path / "same.pt")
    assert get(LITE0, EncoderSettings(tmp_path / "same.pt", device="cpu")).card == base.card


def test_probe_vectors__another_crop_and_window_of_a_real_network_show(tmp_path):
    base = get(LITE0, CPU)
    how = base.preprocessing
    for other in (
        replace(how, resize_px=how.resize_px + 1),
        replace(how, std=tuple(1.05 * value for value in how.std)),
    ):
        vectors = probe_vectors(
            other, TorchEncoder(base._network, base.card, other, Placement("cpu", "fp32"), 1).embed_exact
        )
        assert base.card.probes.lowest_cosines(vectors)["images"] < SAME_COSINE


def test_require__volumes_by_one_probe():
    how = VolumePreprocessing(input_voxels=(16, 16, 16), window_hu=(-1000.0, 1000.0), fit="squash")

    def made(name, how):
        torch.manual_seed(0)
        network = torch.nn.Sequential()
        network.add_module("flatten", torch.nn.Flatten())
        network.add_module(name, torch.nn.Linear(16**3, 20))
        return VolumeEncoder("v", network, how, Placement("cpu", "fp32"), 1, 20)

    old = _stored(made("fc", how).card)
    assert old.probes.images.shape == (1, 20)
    old.require(made("linear", how).card, "c")
    other = made("linear", replace(how, window_hu=(-1000.0, 900.0)))
    assert old.probes.lowest_cosines(other.card.probes)["images"] < SAME_COSINE
    with pytest.raises(FingerprintError, match="preprocessing"):
        old.require(other.card, "c")


# in collections


def _without_probes(store: Path, name: str) -> None:
    path = store / name / "collection.json"
    data = json.loads(path.read_text())
    del data["probes"]
    path.write_text(json.dumps(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write_picture(tmp_path / "images" / f"{number}.png", number)
    return tmp_path / "images"


def test_collection__of_an_earlier_version_gets_probe_vectors_at_its_next_open(folder, tmp_path, cbmir):
    store = tmp_path / "store"
    words = ("--store", store)
    assert cbmir("ingest", "images", folder, "--encoder", "pixels", *words).returncode == 0
    path = store / "pixels" / "collection.json"
    made = json.loads(path.read_text())
    assert len(base64.b64decode(made["probes"]["images"])) == 8 * 1024 * 4
    assert "texts" not in made["probes"]
    for again in (("search", "image", folder / "0.png"), ("ingest", "images", folder, "--encoder", "pixels")):
        _without_probes(store, "pixels")
        assert cbmir(*again, *words).returncode == 0
        now = json.loads(path.read_text())
        assert now["probes"] == made["probes"]
        assert {**now, "source:images/images": None} == {**made, "source:images/images": None}
    _without_probes(store, "pixels")
    assert cbmir("search", "like", "0.png", *words).returncode == 0
    assert "probes" not in json.loads(path.read_text())


def test_collection__an_other_hash_of_the_same_vectors_is_written_to(folder, tmp_path, cbmir):
    """As after a library has renamed a parameter: the collection keeps its fingerprint, and takes more images."""
    store = tmp_path / "store"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "small.pt")
    named = ("--weights", tmp_path / "small.pt", "--device", "cpu")
    words = ("--encoder", "timm:test_vit", "--name", "small", "--store", store, *named)
    assert cbmir("ingest", "images", folder, *words).returncode == 0
    path = store / "small" / "collection.json"
    data = json.loads(path.read_text())
    data["encoder"]["weights"] = "sha256:" + "0" * 64
    data["fingerprint"] = EncoderCard.from_json(data["encoder"]).fingerprint
    path.write_text(json.dumps(data))
    write_picture(folder / "new.png", 9)
    done = cbmir("ingest", "images", folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["stored"], report["skipped"], report["fingerprint"]) == (1, 3, data["fingerprint"])
    found = cbmir("search", "image", folder / "new.png", "--store", store, *named, "--json", "--include-same-patient")
    assert json.loads(found.stdout)[0]["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert json.loads(path.read_text())["encoder"] == data["encoder"]
    others = np.roll(np.eye(8, data["encoder"]["dim"], dtype="<f4"), 1)
    data["probes"]["images"] = base64.b64encode(others.tobytes()).decode()
    path.write_text(json.dumps(data))
    search = ("search", "image", folder / "new.png", *named, "--store", store)
    for refused in (("ingest", "images", folder, *words), search):
        done = cbmir(*refused)
        assert done.returncode == 1
        assert "they differ in weights" in done.stderr
        assert "lowest cosine of the probe vectors" in done.stderr


def _token(key: str, name: str, access: str) -> str:
    def coded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    claims = {"access": [{"collection": name, "access": access} for name in (name, f"{name}__v1")]}
    signed = f"{coded(b'{}')}.{coded(json.dumps(claims).encode())}"
    return f"{signed}.{coded(hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest())}"


@pytest.mark.parametrize("access", ["r", "rw"])
def test_recognise__a_key_that_may_not_change_the_collection_changes_nothing(tmp_path, caplog, access):
    pixels = get("pixels", CPU)
    with Standin(tmp_path / "standin", "full-key") as standin:
        with (
            open_store(standin.url, "full-key") as store,
            store.create("pixels", replace(pixels.card, probes=None)) as made,
        ):
            before = made.metadata()
            assert "probes" not in before
        with open_store(standin.url, _token("full-key", "pixels", access)) as store, store.open("pixels") as collection:
            recognise(collection, pixels)
            assert collection.metadata() == before
        assert caplog.records == []
        with open_store(standin.url, "full-key") as store, store.open("pixels") as collection:
            recognise(collection, pixels)
            assert set(collection.metadata()) - set(before) == {"probes"}
        with open_store(standin.url, "full-key") as store, store.open("pixels") as collection:
            np.testing.assert_allclose(collection.card.probes.images, pixels.card.probes.images)


def test_recognise__a_directory_that_can_not_be_written_fails_nothing(tmp_path, monkeypatch):
    pixels = get("pixels", CPU)
    with EdgeStore(tmp_path / "store").create("pixels", replace(pixels.card, probes=None)) as collection:
        (collection.folder / f".collection.json.{os.getpid()}.part").mkdir()  # nothing can be written there
        recognise(collection, pixels)
        assert "probes" not in collection.metadata()


def test_notes__travel_with_copies_exports_and_imports(folder, tmp_path, cbmir):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    made = cbmir("ingest", "images", folder, "--encoder", "pixels", "--name", "mine", "--store", one)
    assert made.returncode == 0, made.stderr
    assert cbmir("collections", "push", "mine", "--store", one, "--to", two).returncode == 0
    assert cbmir("collections", "export", "mine", "--out", tmp_path / "export", "--store", two).returncode == 0
    done = cbmir("collections", "import", tmp_path / "export", "--store", three)
    assert done.returncode == 0, done.stderr
    notes = [json.loads((store / "mine" / "collection.json").read_text()) for store in (one, two, three)]
    for key in ("probes", "asked_as", "weights_from", "encoder"):
        assert notes[0][key] == notes[1][key] == notes[2][key]
    assert notes[0]["asked_as"] == "pixels"
    assert cbmir("search", "image", folder / "0.png", "--store", three).returncode == 0


def test_notes__an_external_card_has_no_probe_vectors():
    assert external_card("e", 3).notes() == {"weights_from": ""}
