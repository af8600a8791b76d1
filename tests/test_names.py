"""The names of our modules: others have a package `evaluate` too, and both work side by side."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
THEIRS = ("evaluate", "datasets", "multiprocess", "dill", "xxhash")
"""Hugging Face's package, and what of its dependencies ours doesn't need."""

BOTH = """
import evaluate, cbmir.evaluate, cbmir.search, cbmir.ingest
from cbmir.evaluate import METRICS
from cbmir.evaluate.cli import evaluate as command
assert "precision" in METRICS
print(evaluate.load, evaluate.__file__, cbmir.evaluate.__file__, sep="\\n")
"""


def _pip(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)],
        check=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, Path]:
    """A wheel of ours, a checkout of ours, and a folder with the wheels of the other package."""
    folder = tmp_path_factory.mktemp("packages")
    checkout = folder / "checkout"
    for name in ("cbmir", "ingest", "search", "evaluate"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    _pip("wheel", "--no-deps", "--wheel-dir", folder / "ours", checkout)
    _pip("download", "--no-deps", "--dest", folder / "theirs", *THEIRS)
    (wheel,) = (folder / "ours").glob("*.whl")
    return {"wheel": wheel, "editable": checkout, "theirs": folder / "theirs"}


@pytest.mark.samples
def test_wheel__holds_no_name_of_others(packages):
    names = zipfile.ZipFile(packages["wheel"]).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top.partition("-")[0] for top in tops} == {"cbmir"}
    for folder in ("ingest", "search", "evaluate"):
        ours = {f"cbmir/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
        assert ours
        assert ours <= set(names)
    assert {"cbmir/evaluate/analyses/report/page.html.j2", "cbmir/py.typed"} <= set(names)


@pytest.mark.samples
@pytest.mark.parametrize(
    ("form", "order"),
    [
        ("wheel", "theirs first"),
        ("editable", "ours first"),
        pytest.param("wheel", "ours first", marks=pytest.mark.soak),
        pytest.param("editable", "theirs first", marks=pytest.mark.soak),
    ],
)
def test_evaluate__beside_hugging_faces(packages, form, order, tmp_path):
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    inside = Path(sysconfig.get_path("purelib", "venv", {"base": str(place)}))
    (inside / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = place / "bin" / "python"
    ours = ["--editable", packages["editable"]] if form == "editable" else [packages["wheel"]]
    theirs = ["--no-index", "--find-links", packages["theirs"], *THEIRS]
    for some in [ours, theirs] if order == "ours first" else [theirs, ours]:
        _pip("--python", python, "install", "--no-deps", "--no-compile", "--ignore-installed", *some)
    work = tmp_path / "work"
    work.mkdir()
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=work, env=bare, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    _, other, own = run(python, "-c", BOTH).splitlines()
    assert Path(other) == inside / "evaluate" / "__init__.py"
    assert Path(own).is_relative_to(packages["editable"] if form == "editable" else inside)
    for name in ("search", "torch", "evaluate"):
        (work / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    assert "efficientnet-lite0" in run(place / "bin" / "cbmir", "encoders", "list")
    if form == "wheel":
        for folder in ("ingest", "search", "evaluate"):
            assert "Usage" in run(python, "-m", f"cbmir.{folder}", "--help")
