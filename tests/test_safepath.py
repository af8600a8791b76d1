"""Modules beside a user's images are never imported: not by the program, and not by any process it starts."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from pictures import environment, write_picture

from cbmir.safepath import trusted
from cbmir.store.edge import EdgeStore

pytestmark = pytest.mark.slow

IMAGES = 12


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder of images and of a module by every name there is; each writes a file when it is imported."""
    folder = tmp_path / "images"
    names = {*sys.stdlib_module_names, *packages_distributions(), "cbmir", "ingest", "search", "evaluate", "encodings"}
    for number in range(IMAGES):
        write_picture(folder / f"train/XR/chest/nodule/{number}.png", number)
    for name in names:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(_marking(tmp_path, name))
    (folder / "encodings").mkdir()
    (folder / "encodings" / "__init__.py").write_text(_marking(tmp_path, "encodings"))
    return folder


def _marking(place: Path, name: str) -> str:
    return f"open({str(place / 'imported')!r}, 'a').write({name!r} + '\\n')\n"


def _run(hostile: Path, start: list[str], *arguments: object, codes: tuple[int, ...] = (0,), **more: str) -> str:
    done = subprocess.run(
        [*start, *map(str, arguments)],
        cwd=hostile, env={**environment(), **more}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    marker = hostile.parent / "imported"
    assert not marker.exists(), (arguments, sorted(set(marker.read_text().split())))
    assert done.returncode in codes, done.stderr
    return done.stdout


def _leave_out_what_python_imports_itself(hostile: Path, empty: list[str], **more: str) -> None:
    """Delete the modules that Python imports before a program has a say: those that already an empty one imports."""
    marker = hostile.parent / "imported"
    shutil.rmtree(hostile / "encodings")  # Python can't even start with this one
    (hostile / "encodings.py").unlink()
    while True:
        subprocess.run(empty, cwd=hostile, env={**environment(), **more}, capture_output=True, check=False)
        if not marker.exists():
            return
        for name in marker.read_text().split():
            (hostile / f"{name}.py").unlink(missing_ok=True)
            shutil.rmtree(hostile / name, ignore_errors=True)
        marker.unlink()


@pytest.fixture
def program(tmp_path) -> list[str]:
    """``cbmir`` as it is installed: a script in another folder."""
    script = tmp_path / "bin" / "cbmir"
    script.parent.mkdir()
    script.with_name("cbmir-empty").touch()
    script.write_text("import sys\nfrom cbmir.__main__ import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    return [sys.executable, str(script)]


@pytest.mark.parametrize("python_path", ["", ":"])
def test_program__imports_nothing_from_the_working_directory(hostile, program, python_path):
    store, here = hostile.parent / "store", "."
    path = {"PYTHONPATH": os.pathsep.join((environment()["PYTHONPATH"], python_path))} if python_path else {}
    if python_path:
        _leave_out_what_python_imports_itself(hostile, [sys.executable, program[1] + "-empty"], **path)
    encoder = "pixels" if python_path else "efficientnet-lite0"
    ingest = ("ingest", "images", here, "--encoder", encoder, "--store", store)
    thumbnails = ("--thumbnails", hostile.parent / "thumbs", "--thumbnail-url", "http://localhost/t")
    _run(hostile, program, *ingest, "--workers", 2, *thumbnails, **path)
    common = (encoder, "--store", store)
    _run(hostile, program, "collections", "optimize", *common, **path)
    if python_path:
        return
    _run(hostile, program, "ingest", "thumbnails", *common, "--root", here, *thumbnails)
    reindex = ("--encoder", "pixels", "--as", "px", "--root", here, "--workers", 2)
    _run(hostile, program, "ingest", "reindex", *common, *reindex)
    picture = "train/XR/chest/nodule/3.png"
    _run(hostile, program, "search", "image", picture, "--store", store, "--collection", "px", "--sheet", "../s.png")
    of_train = ("--queries", "split=train", "--gallery", "split=train", "--out", "../rows.csv")
    _run(hostile, program, "evaluate", "retrieval", "--store", store, "--collection", "px", *of_train)
    _run(hostile, program, "doctor", "--store", store, "--encoder", "pixels")
    _run(hostile, program, "ingest", "prepare", "nih14", here, "--out", "../nih.csv", codes=(1,))


@pytest.mark.parametrize("package", ["cbmir", "cbmir.ingest", "cbmir.search", "cbmir.evaluate"])
def test_module__imports_nothing_from_the_working_directory(hostile, package):
    """Of ``python -m`` only what Python does before it runs the module escapes: that needs ``python -P -m``."""
    (hostile / "empty_program.py").touch()
    _leave_out_what_python_imports_itself(hostile, [sys.executable, "-m", "empty_program"])
    (hostile / "cbmir.py").unlink()
    _run(hostile, [sys.executable, "-m", package], "--help")
    if package == "cbmir":
        (hostile / "cbmir.py").write_text(_marking(hostile.parent, "cbmir"))
        ingest = ("ingest", "images", ".", "--encoder", "pixels", "--store", hostile.parent / "store", "--workers", 2)
        _run(hostile, [sys.executable, "-P", "-m", package], *ingest)
        (hostile / "cbmir.py").unlink()
        _run(hostile, [sys.executable, "-m", package], *ingest)


def test_ingest_images__of_another_program_starts_its_workers_safely(hostile, tmp_path):
    script = tmp_path / "scripts" / "mine.py"
    script.parent.mkdir()
    (script.parent / "beside.py").write_text("WORKERS = 2\n")
    script.write_text(
        "from pathlib import Path\nfrom beside import WORKERS\nfrom cbmir.media import Asset, Preprocessing\n"
        "from cbmir.ingest.loader import Loader\nfrom cbmir.ingest.loading import Drawing, Wanted\n"
        "if __name__ == '__main__':\n"
        "    with Loader(Drawing(), WORKERS) as loader:\n"
        "        print(len(list(loader.load([[(p, Wanted(Asset(p), None))] for p in Path('.').rglob('*.png')]))))\n"
    )
    assert _run(hostile, [sys.executable, str(script)]) == f"{IMAGES}\n"
    for picture in hostile.rglob("*.png"):
        (script.parent / picture.name).write_bytes(picture.read_bytes())
    assert _run(script.parent, [sys.executable, script.name]) == f"{IMAGES}\n"  # its own folder stays its own


@pytest.mark.skipif(shutil.which("cc") is None, reason="compiles a library")
def test_program__loads_no_library_from_the_working_directory(hostile, program, tmp_path):
    """A library that comes with torch for CUDA looks for libcuda.so.1 in the working directory."""
    source, marker = tmp_path / "evil.c", tmp_path / "imported"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void start(void) {\n"
        f'FILE *file = fopen("{marker}", "a"); if (file) {{ fputs("a_library", file); fclose(file); }} }}\n'
    )
    command = ["cc", "-shared", "-fPIC", "-o", str(hostile / "libcuda.so.1"), str(source)]
    subprocess.run(command, check=True)
    _run(hostile, program, "doctor", "--encoder", "efficientnet-lite0-untrained")


def test_program__takes_no_settings_from_the_working_directory(hostile, program, tmp_path, cbmir):
    """matplotlib would; these ones start LaTeX, and an encoding that is none ends the program."""
    store, picture = tmp_path / "store", "train/XR/chest/nodule/3.png"
    made = cbmir("ingest", "images", hostile, "--encoder", "pixels", "--store", store, "--workers", 1)
    assert made.returncode == 0, made.stderr
    sheets = []
    for number, content in enumerate((b"", b"text.usetex: True\nsavefig.facecolor: red\n", b"\xff\xfe")):
        (hostile / "matplotlibrc").write_bytes(content)
        sheets.append(tmp_path / f"{number}.png")
        _run(hostile, program, "search", "image", picture, "--store", store, "--sheet", sheets[-1])
    assert len({sheet.read_bytes() for sheet in sheets}) == 1


def test_leave_out_working_directory__libraries_that_look_around_are_imported_elsewhere(tmp_path):
    for name in ("torch", "matplotlib", "other"):
        (tmp_path / "path" / name).mkdir(parents=True)
        (tmp_path / "path" / name / "__init__.py").write_text("import os\nhere = os.getcwd()\n")
    script = (
        "import os\nfrom cbmir.safepath import leave_out_working_directory\nleave_out_working_directory()\n"
        "import torch, matplotlib, other\nprint(torch.here, matplotlib.here, other.here, os.getcwd())\n"
        "print(torch.__spec__.loader.get_data(torch.__file__)[:6])"
    )
    path = os.pathsep.join((str(tmp_path / "path"), environment()["PYTHONPATH"]))
    said = _run(tmp_path / "path" / "other", [sys.executable, "-c", script], PYTHONPATH=path)
    other = tmp_path / "path" / "other"
    assert said == f"/ / {other} {other}\nb'import'\n"


def test_salvage__imports_nothing_from_the_working_directory(hostile, tmp_path, card, make_batch):
    """Also where another program salvages: its child finds only what that finds."""
    with EdgeStore(tmp_path / "store") as store, store.create("eight", card) as collection:
        collection.upsert(make_batch(30))
    script = (
        "import sys\nfrom pathlib import Path\nfrom cbmir.collections.salvage import salvage\n"
        "from cbmir.store.edge import EdgeStore\nfrom cbmir.store.edge_points import read_card\n"
        "store = EdgeStore(Path(sys.argv[1]))\n"
        "salvage(store.path / 'eight', store, 'new', read_card(store.path / 'eight'))\nprint(store.names())"
    )
    assert _run(hostile, [sys.executable, "-P", "-c", script], tmp_path / "store") == "['eight', 'new']\n"


def test_trusted__keeps_what_is_installed_and_the_folder_of_cbmir(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "relative", *sys.path])
    kept = trusted()
    assert not {"", str(tmp_path), "relative"} & set(kept)
    assert set(kept) == {entry for entry in sys.path[3:] if Path(entry).is_absolute()}
    home = Path(__file__).resolve().parent.parent
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home)])
    assert trusted() == [str(home)]
