"""The commands that README and guide show, run as they stand: only names and places are those of a folder made here."""

import csv
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest
import timm
import torch
from builders import copied
from dicoms import made
from documents import TEXTS, commands, python_blocks, words_of
from pictures import cbmir as in_process
from pictures import write_picture, write_table
from PIL import Image
from standin import Standin
from standin_rest import Rest

from cbmir.cli import cli
from cbmir.schema import point_id

pytestmark = pytest.mark.slow

SERVER = "http://server:6333"
VALUES = {
    "NAME": "pixels",
    "ENCODER": "pixels",
    "E": "pixels",
    "STORE": "data/store",
    "SOURCE": "table.csv",
    "TABLE": "table.csv",
    "FOLDER": ".",
    "ARCHIVE": "dicom",
    "/mnt/archive/": "dicom",
    "QUERY.dcm": "dicom/1.dcm",
    "PATH": "query.png",
    "ID": point_id("made", "images/00000.png"),
    "COLUMN": "scanner",
    "TEXT": "pneumonia",
    "00123.png": "images/00003.png",
    "BASE": "https://images.example.org/t",
    "http://localhost:6333": SERVER,
    # what a text names and a machine that runs tests hasn't
    "efficientnet-lite0": "pixels",
    "open_clip:ViT-B-16/openai": "pixels",
    "timm:resnet50": "timm:test_vit",
    "cuda:0": "cpu",
    "cuda:1": "cpu",
    "/data/nih14": ".",
    "data/demo/store": "data/store",
    "data/demo/samples/table.csv": "table.csv",
    "data/demo/samples/images/pydicom-pancreas-ct/axial-000.png": "query.png",
}
"""What stands in a text, and what takes its place here; all other words are kept."""

VALUES_OF = {
    "collections pull": {"STORE": SERVER},
    "collections push": {"STORE": SERVER},
    "collections salvage": {"DIR": "data/store/pixels"},
    "evaluate compare": {"efficientnet-lite0": "other"},
    "ingest embeddings": {"biomedclip": "pixels"},
    "ingest reindex": {"ENCODER": "mine.py:make"},
    "ingest prepare": {"DIR": "nih"},
    "search image": {"my_store": "data/store"},
    "search text": {"my_store": "data/store", "biomedclip": "words"},
    "search examples": {"my_store": "data/store"},
}
"""The same for single commands, by how the command begins."""

MORE = {"search examples": "--image a.png"}
"""What a command needs where a text has only its name."""

WORDS = ["collections drop NAME --yes", "ingest images TABLE --encoder words"]
FIRST = {
    "collections create": ["collections drop NAME --yes"],
    "collections import DIR": ["collections export NAME --out DIR", "collections drop NAME --yes"],
    "collections import data/export": ["collections export NAME --out data/export"],
    "collections pull": [f"collections push NAME --to {SERVER}", "collections drop NAME --yes"],
    "collections restore": ["collections snapshot NAME --out DIR", "collections drop NAME --yes"],
    "evaluate compare": ["ingest images TABLE --encoder ENCODER --collection other"],
    "ingest reindex": [f"collections push NAME --to {SERVER}"],
    "search image q.png --encoder": ["collections drop NAME --yes", "ingest images TABLE --encoder mine.py:make"],
    "search text": WORDS,
    "search examples": WORDS,
}
"""What is run before a command, by how the command begins."""

MINE = """
import numpy as np
import torch
from cbmir.encoders import OwnEncoder
from cbmir.media import Preprocessing


def text(texts):
    return np.stack([np.random.default_rng(len(text)).standard_normal(192) for text in texts])


def make():
    how = Preprocessing((8, 8), "squash", 8, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return OwnEncoder(name="mine", network=torch.nn.Flatten(), preprocessing=how, text=text)
"""
PACKAGE = {
    "words.py": MINE.replace("mine", "words"),
    "words-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: words\nVersion: 1.0\n",
    "words-1.0.dist-info/entry_points.txt": "[cbmir.encoders]\nwords = words:make\n",
}
"""An installed package with an encoder that embeds texts: in place of biomedclip."""

NIH = {
    "Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\n"
    "00000001_000.png,Cardiomegaly,1,058Y,M,PA\n00000002_000.png,No Finding,2,013Y,F,AP\n",
    "train_val_list.txt": "00000001_000.png\n",
    "test_list.txt": "00000002_000.png\n",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the texts name: tables, images, embeddings, and a store with the collection ``pixels``."""
    folder = tmp_path_factory.mktemp("template")
    with write_table(folder, 42).open(newline="") as file:
        head, *rows = csv.reader(file)
    head += ["scanner", "kvp", "age_years"]
    rows = [[*row, ("Siemens", "GE")[i % 2], str(120 + i), str(30 + i)] for i, row in enumerate(rows)]
    parts = {"table": slice(None), "published": slice(None), "nih14": slice(21), "CheXpert": slice(21, None)}
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows[part]])
    words = ("ingest", "images", "table.csv", "--encoder", "pixels", "--embeddings", ".", "--store", "store")
    done = in_process(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    for name, part in parts.items():
        copy_rows(folder / "pixels.h5", folder / f"{name}.h5", {row[0] for row in rows[part]})
    for copy, name in (("A.csv", "nih14.csv"), ("B.csv", "CheXpert.csv"), ("biomedclip.h5", "nih14.h5")):
        shutil.copyfile(folder / name, folder / copy)
    nih = [f"nih/images/0000000{number}_000.png" for number in (1, 2)]
    queries = ["query.png", "q.png", "a.png", "b.png", "c.png"]
    made(folder / "dicom/1.dcm", np.arange(4096, dtype=np.int16).reshape(64, 64) // 16)
    for name in (*queries, *nih, "my_images/train/XR/chest/nodule/1.png"):
        write_picture(folder / name, 5)
    Image.open(folder / "query.png").resize((240, 200)).save(folder / "query.png")
    for name, text in NIH.items():
        (folder / "nih" / name).write_text(text)
    np.save(folder / "FILE.npy", np.random.default_rng(0).standard_normal((1, 1024)).astype(np.float32))
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "checkpoint.pt")
    (folder / "mine.py").write_text(MINE)
    (folder / "installed/words-1.0.dist-info").mkdir(parents=True)
    for name, text in PACKAGE.items():
        (folder / "installed" / name).write_text(text)
    (folder / "experiment.toml").write_text('store = "data/store"\nout = "results"\n\n[retrieval]\ndraws = 100\n')
    (folder / "data/demo").mkdir(parents=True)
    return folder


def copy_rows(source: Path, to: Path, files: set[str]) -> None:
    """The rows of an embeddings file that belong to some image files."""
    with h5py.File(source) as read, h5py.File(to, "w") as written:
        kept = [path.decode() in files for path in read["filepath"][:]]
        for name in read:
            written[name] = read[name][:][kept]
        for holder, new in ((read, written), *((read[name], written[name]) for name in read)):
            new.attrs.update(holder.attrs)


@dataclass(frozen=True)
class Sandbox:
    """A copy of the template as working folder, and a server.

    Attributes:
        url: Of the server.
        run: Runs a command of cbmir in this process.
    """

    url: str
    run: Callable[..., Any]

    def ran(self, words: Sequence[str]) -> None:
        line = " ".join(words)
        words = [*words, *MORE.get(line, "").split()]
        values = VALUES | {k: v for begin, own in VALUES_OF.items() if line.startswith(begin) for k, v in own.items()}
        for first in (first for begin, firsts in FIRST.items() if line.startswith(begin) for first in firsts):
            self.ran(first.split())
        used = [values.get(word, word) for word in words]
        if line.count("NAME NAME"):
            used[-1] = "other"
        done = self.run(*(self.url if word == SERVER else word for word in used), CBMIR_STORE="data/store")
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.fixture
def sandbox(
    template: Path, tmp_path: Path, cbmir: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    folder = tmp_path / "here"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("store"))
    copied(template / "store", folder / "data/store")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder / "installed")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with Standin(tmp_path / "server", rest_handler=Rest) as server:
        yield Sandbox(server.url, cbmir)


ENDING = [shown for shown in commands("README.md", "docs/guide.md", "docs/tour.md") if shown.words[0] != "serve"]
"""All but the service, which runs until it is stopped; `test_serve` runs that."""


@pytest.mark.parametrize("shown", ENDING, ids=str)
def test_command__runs(shown, sandbox):
    sandbox.ran(shown.words)


NAMES = {
    'store["pixels"]]': 'store["other"]]',
    "data/demo/store": "data/store",
    "efficientnet-lite0": "pixels",
    "biomedclip": "words",
    "00123.png": "images/00003.png",
}
"""What stands in Python of the texts, and what takes its place."""


@pytest.mark.parametrize("text", ["README.md", "docs/guide.md"])
def test_python__runs(text, sandbox):
    sandbox.ran(["evaluate", "compare", "--store", "STORE", "NAME", "NAME"])  # which makes the collection ``other``
    image = Image.open("query.png")
    names = {"image": image, "array": np.asarray(image)}
    for source in python_blocks(text):
        for name, value in NAMES.items():
            source = source.replace(name, value)
        exec(compile(source, text, "exec"), names)


@pytest.mark.parametrize("shown", commands(*TEXTS), ids=str)
def test_command__has_options_that_exist(shown):
    command: click.Command = cli
    words = list(shown.words)
    while isinstance(command, click.Group):
        following = command.get_command(click.Context(command), words.pop(0))
        assert following is not None, shown
        command = following
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cbmir evaluate classify  --store STORE      kNN votes", "cbmir evaluate classify --store STORE"),
        ("cbmir collections list          # all of them", "cbmir collections list"),
        ("cbmir collections import DIR [--as NAME]", "cbmir collections import DIR --as NAME"),
        ("cbmir search image PATH|DIR... --store STORE", "cbmir search image PATH --store STORE"),
        ("cbmir search like ID ...   stored", "cbmir search like ID"),
        ("cbmir search image q.png --where 'a=b|c'", "cbmir search image q.png --where a=b|c"),
    ],
)
def test_words_of__cases(line, words):
    assert " ".join(words_of(line)) == words


def test_commands__are_found_in_each_text():
    found = {shown.where.partition(":")[0] for shown in commands(*TEXTS)}
    assert found == set(TEXTS)
