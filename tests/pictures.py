"""Made pictures and tables for the tests, and the real command as a user calls it."""

import csv
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.data import get_testdata_file

from cbmir.limits import Limits
from cbmir.media import Asset, Volume

LABELS = ("XR/chest/pneumonia", "CT/lung/nodule", "MR/brain/glioma", "US/heart/normal")
ROOT = Path(__file__).resolve().parent.parent


def read_volume(source: Path | bytes, limits: Limits | None = None) -> Volume:
    return Asset(source, limits).volume


def pixels(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """(height, width) grey blobs, another picture for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def real_pictures() -> list[Image.Image]:
    """The CT, MR and ultrasound pictures of 128 x 128, 484 x 300 and 320 x 240 that pydicom ships, as 8-bit RGB."""
    made = []
    for name in ("CT_small.dcm", "examples_overlay.dcm", "examples_rgb_color.dcm"):
        path = get_testdata_file(name, download=False)
        assert isinstance(path, str)
        values = pydicom.dcmread(path).pixel_array.astype(float)
        values = (values - values.min()) / (values.max() - values.min()) * 255
        made.append(Image.fromarray(values.round().astype(np.uint8)).convert("RGB"))
    return made


def write_picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)
    return path


def write_table(folder: Path, count: int, name: str = "table.csv") -> Path:
    """`count` pictures and a table of them: labels, splits and patients in turn."""
    rows = []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        file = f"images/{number:05d}.png"
        write_picture(folder / file, number)
        split = ("train", "train", "val", "test")[number % 7 % 4]
        rows.append([file, "made", split, label.split("/")[0], label.split("/")[1], label, f"p{number // 3}"])
    table = folder / name
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filepath", "dataset", "split", "modality", "anatomic_region", "labels", "patient_id"])
        writer.writerows(rows)
    return table


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cbmir", *(str(item) for item in arguments)]


def environment() -> dict[str, str]:
    """As the tests' own, with the checkout importable from any folder, and no store by default."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CBMIR_STORE", "QDRANT_API_KEY")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def cbmir(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real program; a traceback is a failure whatever the test asks."""
    done = subprocess.run(
        command(*arguments),
        capture_output=True, text=True, cwd=cwd, env={**environment(), **(env or {})}, timeout=1200, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done
