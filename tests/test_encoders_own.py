"""Encoders of the user's own: from a file, from an installed package, and weights under a name of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pixels, write_picture
from PIL import Image

from cbmir.encoders import EncoderSettings, get, given
from cbmir.encoders.plugins import plugin
from cbmir.errors import EncoderError, ImageError
from cbmir.fingerprint import EncoderCard
from cbmir.ingest.loader import Loader
from cbmir.ingest.loading import Wanted
from cbmir.media import Asset, OwnPreprocessing, Volume, prepare
from cbmir.store.edge import EdgeStore

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.slow

EVERYONE = "--include-same-patient"
CPU = EncoderSettings(device="cpu", precision="fp32")
SMALL = "timm:test_vit"

OWN = """
import numpy as np

from cbmir.encoders import OwnEncoder
from cbmir.media import OwnPreprocessing

LOW, HIGH = 1.0, 99.0


def window(image):
    grey = np.asarray(image.convert("L").resize((16, 16)), np.float32)
    low, high = np.percentile(grey, (LOW, HIGH))
    return np.clip((grey - low) / max(high - low, 1e-6), 0, 1)


def network():
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 24))


def make():
    how = OwnPreprocessing(window, (16, 16, 1), dtype="float32")
    return OwnEncoder(name="windowed", network=network(), preprocessing=how, dim=24)
"""
LAYERS = "torch.nn.Flatten(), torch.nn.Linear(256, 24)"
RUNS = """
from pathlib import Path

Path(r"{marker}").write_text("was run")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with an encoder that windows by percentiles."""
    file = tmp_path / "code" / "mine.py"
    file.parent.mkdir()
    file.write_text(OWN)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images in two classes."""
    for number in range(12):
        split, labels = ("test", "train")[number // 2 % 2], ("XR/chest/normal", "CT/lung/nodule")[number % 2]
        write_picture(tmp_path / "images" / split / labels / f"{number}.png", number)
    return tmp_path / "images"


def _file(tmp_path: Path, body: str, head: str = OWN) -> str:
    file = tmp_path / "other.py"
    file.write_text(f"{head}\nimport torch\n{body}")
    return f"{file}:other"


# from a file


def test_given__a_file_makes_an_encoder_with_its_own_preprocessing(own):
    encoder = given(f"{own}:make", CPU)
    image = Image.fromarray(pixels(3)).convert("RGB")
    grey = np.asarray(image.convert("L").resize((16, 16)), np.float32)
    low, high = np.percentile(grey, (1, 99))
    expected = np.clip((grey - low) / (high - low), 0, 1).astype(np.float32)
    made = encoder.preprocessing.apply(image)
    np.testing.assert_allclose(made[..., 0], expected, atol=1e-6)
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 24))
    features = linear(torch.from_numpy(expected)[None, None]).detach().numpy()[0]
    np.testing.assert_allclose(encoder.embed(made[None])[0], features / np.linalg.norm(features), atol=1e-5)
    card = encoder.card
    assert (card.name, card.dim, card.asked_as, card.origin) == ("windowed", 24, "mine.py:make", "mine.py:make")
    assert card.code.startswith("sha256:")
    assert given(f"{own}:make", CPU).card == card


def test_given__leaves_the_module_path_and_the_folder_as_they_are(own):
    before = list(sys.path)
    (own.parent / "torch.py").write_text("raise SystemExit('a file beside it was imported')")
    given(f"{own}:make", CPU)
    assert sys.path == before
    assert sorted(path.name for path in own.parent.iterdir()) == ["mine.py", "torch.py"]


def test_loader__workers_run_the_file_as_it_was_loaded(own, folder):
    how = given(f"{own}:make", CPU).preprocessing
    own.write_text("raise SystemExit('edited meanwhile')")
    paths = sorted(folder.rglob("*.png"))
    with Loader(how, 2) as loader:
        (loaded,) = loader.load([[(path, Wanted(Asset(path), None)) for path in paths]])
    assert [item.reason for _, item in loaded] == [None] * 12
    for path, item in loaded:
        np.testing.assert_array_equal(item.pixels, prepare(path, how).pixels)


def test_ingest_search_evaluate__with_a_file(own, folder, tmp_path, cbmir, cbmir_process):
    store = tmp_path / "store"
    made = cbmir_process("ingest", "images", folder, "--encoder", f"{own}:make", "--store", store, "--device", "cpu")
    assert made.returncode == 0, made.stderr
    query = folder / "test/XR/chest/normal/0.png"
    refused = cbmir("search", "image", query, "--store", store)
    assert refused.returncode == 1
    code = json.loads((store / "windowed" / "collection.json").read_text())["code"]
    assert f"mine.py:make ({code[:19]})" in refused.stderr
    assert "--encoder FILE.py:FUNCTION" in refused.stderr
    found = cbmir_process(
        "search", "image", query, "--store", store, "--encoder", f"{own}:make", "--json", "-k", 3, EVERYONE
    )
    assert found.returncode == 0, found.stderr
    hits = json.loads(found.stdout)[0]["hits"]
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-4)
    measured = cbmir("evaluate", "retrieval", "--store", store, "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["encoder"]["name"] == "windowed"
    again = cbmir("ingest", "images", folder, "--encoder", f"{own}:make", "--store", store, "--json")
    assert json.loads(again.stdout)["skipped"] == 12, again.stderr


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("LOW, HIGH = 1.0, 99.0", "LOW, HIGH = 1.0, 99.0  # percent", True),
        (LAYERS, f"torch.nn.Identity(), {LAYERS}", True),
        ("LOW, HIGH = 1.0, 99.0", "LOW, HIGH = 2.0, 98.0", False),
        ("resize((16, 16))", "crop((0, 0, 200, 90)).resize((16, 16))", False),
        ("manual_seed(0)", "manual_seed(1)", False),
    ],
    ids=["a comment", "a parameter renamed", "another window", "another crop", "other weights"],
)
def test_search__a_changed_file_is_known_again_by_its_probe_vectors(
    own, folder, tmp_path, cbmir, caplog, old, new, same
):
    store = tmp_path / "store"
    asked = ("--encoder", f"{own}:make", "--store", store, "--device", "cpu")
    assert cbmir("ingest", "images", folder, *asked).returncode == 0
    assert old in OWN
    own.write_text(OWN.replace(old, new))
    for words in (("search", "image", folder / "test/XR/chest/normal/0.png"), ("ingest", "images", folder)):
        caplog.clear()
        done = cbmir(*words, *asked)
        assert done.returncode == (0 if same else 1), done.stderr
        assert "lowest cosine of the probe vectors: " in (caplog.text if same else done.stderr)
        assert caplog.text.count("counts as the same encoder") == same


def test_search__a_network_whose_code_alone_has_changed_is_refused(own, folder, tmp_path, cbmir):
    store = tmp_path / "store"
    asked = ("--encoder", f"{own}:make", "--store", store, "--device", "cpu")
    assert cbmir("ingest", "images", folder, *asked).returncode == 0
    own.write_text(OWN.replace("Linear(256, 24))", "Linear(256, 24), torch.nn.ReLU())"))
    found = cbmir("search", "image", folder / "test/XR/chest/normal/0.png", *asked, EVERYONE)
    assert found.returncode == 1
    assert "they differ in their code" in found.stderr


def _returning(name: str = "a", network: str = "network()", how: str = "", more: str = "") -> str:
    how = how or "OwnPreprocessing(window, (16, 16, 1), dtype='float32')"
    return f"def other(): return OwnEncoder(name={name!r}, network={network}, preprocessing={how}{more})"


def _by(function: str) -> str:
    return f"OwnPreprocessing({function}, (16, 16, 1), dtype='float32')"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def other(:\n    pass", "SyntaxError"),
        ("raise RuntimeError('no luck')", r"RuntimeError: no luck \(other.py, line 28\)"),
        ("raise SystemExit(3)", "SystemExit"),
        ("other = 3", r"no function 'other'; there are make, network, window"),
        ("def other(): return 1 / 0", "ZeroDivisionError"),
        ("def other(): return 3", "gives a int; it must give cbmir.encoders.OwnEncoder"),
        ("def other(one, two): pass", "TypeError"),
        (_returning(name="a/b"), "can't be named 'a/b'"),
        (_returning(name="biomedclip"), "the name of another encoder"),
        (_returning(network="3"), "not a torch.nn.Module"),
        (_returning(how="window"), "the preprocessing is a function"),
        (_returning(how="OwnPreprocessing(window, (16, 16, 1))"), r"gave float64 of \(16, 16, 1\), not uint8"),
        (
            _returning(how="OwnPreprocessing(window, (16, 15, 1), dtype='float32')"),
            r"not float32 of \(16, 15, 1\)",
        ),
        (_returning(how=_by("lambda image: window(image)")), "at the top level of the file"),
        (
            "def noise(image): return np.random.random((16, 16, 1))\n" + _returning(how=_by("noise")),
            "other values each time",
        ),
        ("def fails(image): return image.no_such_thing\n" + _returning(how=_by("fails")), "AttributeError"),
        (_returning(more=", dim=23"), "gives 24 numbers an image, not 23"),
        (_returning(network="torch.nn.Linear(3, 2)"), "RuntimeError|doesn't give one vector"),
        (_returning(network="torch.nn.Identity()"), "doesn't give one vector"),
    ],
)
def test_given__a_file_that_can_not_be_used_is_one_line(tmp_path, body, said):
    with pytest.raises(EncoderError, match=said) as caught:
        given(_file(tmp_path, body), CPU)
    assert "\n" not in str(caught.value)


def test_given__a_file_without_a_function_or_without_a_file(own, tmp_path):
    with pytest.raises(EncoderError, match=r"mine\.py:FUNCTION"):
        given(str(own), CPU)
    with pytest.raises(EncoderError, match="no file"):
        given(f"{tmp_path}/nothing.py:make", CPU)


def test_get__never_runs_a_file(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(RUNS.format(marker=marker))
    monkeypatch.chdir(tmp_path)
    for name in (f"{tmp_path}/evil.py:make", "evil.py:make", "evil.py", "evil", "./evil.py:make", "hf:evil.py:make"):
        with pytest.raises(EncoderError):
            get(name, CPU)
    assert not marker.exists()


def test_given__the_function_sees_settings_and_weights(own, tmp_path):
    body = """
def other(settings):
    made = network()
    if settings.weights:
        made.load_state_dict(torch.load(settings.weights, weights_only=True))
    return OwnEncoder(name="a", network=made, preprocessing=OwnPreprocessing(window, (16, 16, 1), dtype="float32"))
"""
    torch.manual_seed(5)
    weights = tmp_path / "w.pt"
    torch.save(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 24)).state_dict(), weights)
    with_weights = given(_file(tmp_path, body), EncoderSettings(weights, device="cpu")).card
    assert with_weights.origin == "given as w.pt"
    assert with_weights.weights != given(_file(tmp_path, body), CPU).card.weights
    with pytest.raises(EncoderError, match="takes no settings, so it can't see --weights"):
        given(f"{own}:make", EncoderSettings(weights, device="cpu"))


def test_given__text_of_ones_own(tmp_path):
    body = """
def text(texts):
    return [[len(item), 1.0] + [0.0] * 22 for item in texts]

def other():
    how = OwnPreprocessing(window, (16, 16, 1), dtype="float32")
    return OwnEncoder(name="a", network=network(), preprocessing=how, text=text)
"""
    encoder = given(_file(tmp_path, body), CPU)
    np.testing.assert_allclose(encoder.embed_text(["abc"])[0, :2], np.array([3, 1]) / np.sqrt(10), atol=1e-6)
    assert encoder.card.probes.texts.shape == (4, 24)


def test_given__an_object_with_the_methods_of_an_encoder(tmp_path):
    body = """
from cbmir.fingerprint import EncoderCard

class Mean:
    preprocessing = OwnPreprocessing(window, (16, 16, 1), dtype="float32")
    card = EncoderCard("mean", 16, "none", {})
    batch_size = 4
    running_on = "cpu"

    def embed(self, pixels):
        return pixels[..., 0].mean(axis=1) if len(pixels) < 9 else pixels

    def embed_text(self, texts):
        raise ValueError("no text")

def other():
    return Mean()
"""
    encoder = given(_file(tmp_path, body), CPU)
    made = encoder.preprocessing.apply(Image.fromarray(pixels(1)).convert("RGB"))
    expected = made[..., 0].mean(axis=0)
    np.testing.assert_allclose(encoder.embed(made[None])[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert encoder.card.preprocessing["own"]
    assert encoder.card.probes.images.shape == (8, 16)
    with pytest.raises(EncoderError, match=r"gave an array of \(9, 16, 16, 1\), not \(9, 16\)"):
        encoder.embed(np.stack([made] * 9))
    with pytest.raises(EncoderError, match="ValueError: no text"):
        encoder.embed_text(["a"])


def test_given__volumes(tmp_path):
    body = """
def cut(volume):
    return np.clip(volume.values[:8, :8, :8] / 1000, -1, 1)

def other():
    how = OwnPreprocessing(cut, (8, 8, 8), kind="volume", dtype="float16", settings={"hu": 1000})
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(512, 6))
    return OwnEncoder(name="a", network=net, preprocessing=how, dim=6)
"""
    encoder = given(_file(tmp_path, body), CPU)
    volume = Volume(np.random.default_rng(0).normal(0, 500, (9, 9, 9)).astype(np.float32), (1.0, 1.0, 1.0))
    voxels = encoder.preprocessing.apply(volume)
    assert voxels.dtype == np.float16
    vectors = encoder.embed(np.stack([voxels, voxels]))
    assert vectors.shape == (2, 6)
    assert encoder.card.probes.images.shape == (1, 6)
    with pytest.raises(ImageError, match="is an image"):
        prepare(write_picture(tmp_path / "a.png", 1), encoder.preprocessing)


def test_images__a_failing_preprocessing_is_counted(own, folder, tmp_path, cbmir):
    """On the probes it works, on one of the images it doesn't."""
    own.write_text(
        OWN.replace(
            "    low, high = np", "    if image.size == (7, 5): raise ValueError('too small')\n    low, high = np"
        )
    )
    Image.new("L", (7, 5), 3).save(folder / "test/XR/chest/normal/small.png")
    done = cbmir(
        "ingest", "images", folder, "--encoder", f"{own}:make", "--store", tmp_path / "store", "--device", "cpu",
        "--failures", tmp_path / "failures.csv",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "own preprocessing failed: ValueError: too small (mine.py, line" in (tmp_path / "failures.csv").read_text()


@pytest.mark.parametrize(
    "values", [{"shape": (16, 16)}, {"dtype": "int64"}, {"kind": "film"}, {"mean": (1.0, 2.0)}, {"function": 3}]
)
def test_own_preprocessing__values_that_do_not_fit(values):
    with pytest.raises(EncoderError):
        OwnPreprocessing(**{"function": np.asarray, "shape": (16, 16, 3), **values})


# what a card names is never run


@pytest.mark.parametrize("field", ["name", "asked_as"])
def test_restore__a_card_that_names_a_file_runs_nothing(tmp_path, cbmir, folder, field):
    marker, evil = tmp_path / "marker", tmp_path / "evil.py"
    evil.write_text(RUNS.format(marker=marker) + OWN)
    given_name = f"{evil}:make" if field == "name" else "windowed"
    made = EncoderCard(
        given_name, 24, "sha256:" + "0" * 64, {}, origin="evil.py:make", asked_as=f"{evil}:make", code="sha256:1"
    )
    with EdgeStore(tmp_path / "store").create("trap", made) as collection:
        assert collection.card == made
    backup, store = tmp_path / "backup", tmp_path / "restored"
    assert cbmir("collections", "snapshot", "trap", "--out", backup, "--store", tmp_path / "store").returncode == 0
    restored = cbmir("collections", "restore", backup, "--store", store)
    assert restored.returncode == 0, restored.stderr
    picture = folder / "test/XR/chest/normal/0.png"
    commands = (
        ("search", "image", picture, "--store", store),
        ("search", "image", picture, "--store", store, "--weights", tmp_path),
        ("collections", "show", "trap", "--store", store),
        ("collections", "export", "trap", "--out", tmp_path / "export", "--store", store),
        ("evaluate", "retrieval", "--store", store),
        ("doctor", "--store", store),
        ("encoders", "show", made.name),
    )
    said = [cbmir(*words) for words in commands]
    assert said[0].returncode == 1
    assert f"{evil}:make" in said[0].stderr
    assert not marker.exists()
    wanted = cbmir("search", "image", picture, "--store", store, "--encoder", f"{evil}:make")
    assert marker.exists()  # the user named the file
    assert wanted.returncode == 1
    assert "holds vectors of" in wanted.stderr


# weights under a name of one's own


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "ours.pt"
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), path)
    return path


def test_name__weights_of_ones_own_through_ingest_and_search(checkpoint, folder, tmp_path, cbmir):
    store = tmp_path / "store"
    words = ("--weights", checkpoint, "--store", store, "--device", "cpu")
    made = cbmir("ingest", "images", folder, "--encoder", SMALL, "--name", "mine", *words)
    assert made.returncode == 0, made.stderr
    data = json.loads((store / "mine" / "collection.json").read_text())
    assert (data["encoder"]["name"], data["asked_as"], data["weights_from"]) == ("mine", SMALL, "given as ours.pt")
    picture = folder / "test/XR/chest/normal/0.png"
    without = cbmir("search", "image", picture, "--store", store)
    assert without.returncode == 1
    assert f"not {SMALL}'s own: give --weights FILE|DIR" in without.stderr
    for more in ((), ("--encoder", SMALL)):
        found = cbmir("search", "image", picture, *words, *more, "--json", EVERYONE)
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)[0]["hits"][0]["score"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["biomedclip", "a/b", "x.py", "timm:mine", ""])
def test_get__names_that_can_not_be_ones_own(name, checkpoint):
    with pytest.raises(EncoderError, match="--name"):
        get(SMALL, EncoderSettings(checkpoint, device="cpu", name=name))


def test_name__of_a_file(own):
    card = given(f"{own}:make", EncoderSettings(device="cpu", name="other-name")).card
    assert (card.name, card.asked_as) == ("other-name", "mine.py:make")


# installed packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an entry point, installed as pip does it, in a folder that is on the module path."""
    source, target = tmp_path / "plug", tmp_path / "target"
    (source / "windowed_encoder").mkdir(parents=True)
    (source / "windowed_encoder" / "__init__.py").write_text(OWN)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "windowed-encoder"\nversion = "0.3"\n'
        '[project.entry-points."cbmir.encoders"]\nwindowed = "windowed_encoder:make"\n'
        'broken = "windowed_encoder:none"\nrenamed = "windowed_encoder:make"\n'
    )
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True, cwd=tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(str(target))
    return target


def test_package__its_encoder_goes_through_ingest_search_and_evaluate(package, folder, tmp_path, cbmir, cbmir_process):
    store = tmp_path / "store"
    listed = cbmir("encoders", "list")
    assert "windowed-encoder 0.3, windowed_encoder:make" in listed.stdout
    assert json.loads(cbmir("encoders", "show", "windowed", "--json").stdout)["source"] == "package windowed-encoder"
    made = cbmir_process("ingest", "images", folder, "--encoder", "windowed", "--store", store, "--device", "cpu")
    assert made.returncode == 0, made.stderr
    data = json.loads((store / "windowed" / "collection.json").read_text())
    assert data["weights_from"] == "package windowed-encoder"
    assert data["code"].startswith("sha256:")
    found = cbmir_process(
        "search", "image", folder / "test/XR/chest/normal/0.png", "--store", store, "--json", EVERYONE
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)[0]["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    measured = cbmir("evaluate", "retrieval", "--store", store, "--json")
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["encoder"]["name"] == "windowed"


def test_package__errors_of_its_entry_points(package):
    with pytest.raises(EncoderError, match=r"windowed-encoder 0\.3.*can't be loaded: AttributeError"):
        get("broken", CPU)
    with pytest.raises(EncoderError, match="the entry point is renamed, the encoder windowed: give one name"):
        get("renamed", CPU)
    with pytest.raises(EncoderError, match="windowed"):
        get("windowe", CPU)


def test_plugin__two_packages_with_one_name_are_refused(package):
    made = package / "twice-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: twice\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text("[cbmir.encoders]\nwindowed = twice:make\n")
    with pytest.raises(EncoderError, match=r"2 packages have an encoder windowed: twice 1\.0.*windowed-encoder 0\.3"):
        plugin("windowed")


def test_package__an_own_file_becomes_a_package(own, package, folder, tmp_path, cbmir):
    """A collection of a file is found by the installed entry point of the same name, without --encoder."""
    store = tmp_path / "store"
    made = cbmir("ingest", "images", folder, "--encoder", f"{own}:make", "--store", store, "--device", "cpu")
    assert made.returncode == 0, made.stderr
    found = cbmir(
        "search", "image", folder / "test/XR/chest/normal/0.png", "--store", store, "--device", "cpu", EVERYONE
    )
    assert found.returncode == 0, found.stderr
