"""HDF5 files that point elsewhere: every way out of a file is refused before anything is read there."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

from cbmir.errors import SourceError
from cbmir.vectorfile import MAX_DIM, VectorWriter, open_embeddings

SECRET = np.arange(8, dtype=np.float32)
PLUGIN = 32015
"""The number of a filter that is a plug-in (Zstandard)."""


@pytest.fixture
def attack(tmp_path):
    """A folder with a file that nobody was meant to read, as HDF5 and as bytes."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret.png"] = SECRET
        file["id"] = np.array([b"x" * 36], "S36")
    (tmp_path / "secret.raw").write_bytes(SECRET.tobytes())
    return tmp_path


def external_link(file, folder):
    file["a.png"] = h5py.ExternalLink(str(folder / "secret.h5"), "secret.png")


def link_deep_inside(file, folder):
    file.create_group("images/one")["a.png"] = h5py.ExternalLink("secret.h5", "secret.png")


def soft_link_out(file, folder):
    file["door"] = h5py.ExternalLink("secret.h5", "/")
    file["a.png"] = h5py.SoftLink("/door/secret.png")


def external_storage(file, folder):
    file.create_dataset("a.png", (8,), "f4", external=[(str(folder / "secret.raw"), 0, SECRET.nbytes)])


def virtual(file, folder):
    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "secret.png", (8,))
    file.create_virtual_dataset("a.png", layout)


def virtual_without_end(file, folder):
    """Its parts are looked for by number when its shape is asked for."""
    layout = h5py.VirtualLayout((8,), "f4", maxshape=(None,))
    source = h5py.VirtualSource(str(folder / "secret.h5"), "secret.png", (8,), maxshape=(None,))
    layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    file.create_virtual_dataset("a.png", layout)


def plug_in(file, folder):
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_chunk((8,))
    how.set_filter(PLUGIN, h5py.h5z.FLAG_OPTIONAL, (3,))
    h5py.h5d.create(file.id, b"a.png", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((8,)), how)


ATTACKS = {
    "external link": (external_link, r"is refused: a\.png is a link out of the file"),
    "external link in a group": (link_deep_inside, r"is refused: images/one/a\.png is a link out of the file"),
    "soft link through another": (soft_link_out, "is refused: door is a link out of the file"),
    "external storage": (external_storage, r"is refused: a\.png keeps its values in another file"),
    "virtual data set": (virtual, r"is refused: a\.png is a virtual data set"),
    "virtual data set without end": (virtual_without_end, r"is refused: a\.png is a virtual data set"),
    "plug-in": (plug_in, rf"is refused: a\.png is packed with filter {PLUGIN}, a plug-in"),
}


@pytest.mark.parametrize(("make", "says"), ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("ours", [False, True], ids=["published layout", "our layout"])
def test_open_embeddings__refuses_what_lies_elsewhere(attack, card, make, says, ours):
    path = attack / "attack.h5"
    if ours:
        VectorWriter(path, card).close()
    with h5py.File(path, "a") as file:
        make(file, attack)
    with pytest.raises(SourceError, match=says) as error:
        open_embeddings(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("driver", ["family", "split"])
def test_open_embeddings__refuses_files_in_parts(tmp_path, driver):
    name = "part%d.h5" if driver == "family" else "part"
    with h5py.File(tmp_path / name, "w", driver=driver, **({"memb_size": 4096} if driver == "family" else {})) as file:
        file["a.png"] = np.ones(5000, np.float32)
    first = tmp_path / ("part0.h5" if driver == "family" else "part-m.h5")
    with pytest.raises(SourceError, match="HDF5") as error:
        open_embeddings(first).close()
    assert "\n" not in str(error.value)


def test_open_embeddings__what_lies_in_the_file_is_read(tmp_path):
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["images/a.png"] = SECRET
        file.create_dataset("packed.png", data=SECRET, compression="gzip", shuffle=True, fletcher32=True)
        file.create_dataset("fast.png", data=SECRET, compression="lzf")
        file["soft.png"] = h5py.SoftLink("/images/a.png")
        file["nowhere.png"] = h5py.SoftLink("/images/none.png")
        file["again"] = file["/images"]
    found = open_embeddings(tmp_path / "good.h5")
    assert found.count == 3
    for name in ("images/a.png", "packed.png", "fast.png", "soft.png", "again/a.png"):
        np.testing.assert_array_equal(found._file[name][()], SECRET)
    found.close()


def test_open_embeddings__a_vector_of_any_size_is_not_read(tmp_path, make_batch):
    record = make_batch(1).records[0]
    with h5py.File(tmp_path / "big.h5", "w") as file:
        file.create_dataset(record.filepath, (10**13,), "f4", chunks=(1024,))
    found = open_embeddings(tmp_path / "big.h5")
    with pytest.raises(SourceError, match="its vector has shape"):
        found.find(record)
    found.close()
    assert MAX_DIM > 10_000


def test_open_embeddings__ids_without_end_are_refused(tmp_path, card):
    VectorWriter(tmp_path / "big.h5", card).close()
    with h5py.File(tmp_path / "big.h5", "a") as file:
        file["id"].resize((10**15,))
    with pytest.raises(SourceError, match="is a damaged embeddings file"):
        open_embeddings(tmp_path / "big.h5")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="makes a shared library by cc")
def test_open_embeddings__loads_no_plug_in(attack, tmp_path):
    """A library in HDF5_PLUGIN_PATH is a program that runs when it is loaded."""
    source, ran = tmp_path / "plugin.c", tmp_path / "ran"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) void f(void) {{ fclose(fopen("{ran}", "w")); }}'
    )
    (tmp_path / "plugins").mkdir()
    library = tmp_path / "plugins" / "libattack.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    for name, make in (("plug.h5", plug_in), ("good.h5", lambda file, _: file.__setitem__("a.png", SECRET))):
        with h5py.File(tmp_path / name, "w") as file:
            make(file, tmp_path)
    code = (
        "import sys; from pathlib import Path; from cbmir.vectorfile import open_embeddings\n"
        "try: open_embeddings(Path(sys.argv[1])).close()\nexcept Exception as error: print(error)"
    )
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path / "plugins")}
    for name in ("plug.h5", "good.h5"):
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / name], env=environment, capture_output=True, text=True, check=True
        )
        assert ("a plug-in" in done.stdout) == (name == "plug.h5"), done
        assert not ran.exists()
