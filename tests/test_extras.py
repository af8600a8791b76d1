"""Packages that an extra installs: what is said, and when, where one is missing."""

import logging
import sys

import numpy as np
import pytest
from PIL import Image

from cbmir.encoders import EncoderSettings, get
from cbmir.encoders.compiled import _tell_missing
from cbmir.errors import CbmirError
from cbmir.extras import require


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """A function that makes a package look as if it weren't installed."""
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


def test_require__names_the_command(without):
    require("numpy", "cpu", "anything")
    without("numpy")
    with pytest.raises(
        CbmirError, match=r"^a sheet needs numpy, which is not installed: pip install 'cbmir\[plots\]'$"
    ):
        require("numpy", "plots", "a sheet")


def test_search__a_sheet_without_matplotlib_is_refused_before_the_search(without, shelf, tmp_path, cbmir):
    Image.new("L", (40, 30)).save(tmp_path / "q.png")
    without("matplotlib")
    done = cbmir("search", "image", tmp_path / "q.png", "--store", shelf, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 1
    assert done.stderr.endswith("a sheet needs matplotlib, which is not installed: pip install 'cbmir[plots]'\n")
    assert done.stdout == ""


def test_report__without_matplotlib_is_refused(without, shelf, tmp_path, cbmir):
    without("matplotlib")
    done = cbmir("evaluate", "report", "eight", "--store", shelf, "--out", tmp_path / "page")
    assert done.returncode == 1
    assert done.stderr.endswith("a report needs matplotlib, which is not installed: pip install 'cbmir[plots]'\n")


def test_embed__without_openvino_torch_runs_the_network_and_one_warning_says_so(without, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    settings = EncoderSettings(device="cpu", precision="fp32", batch_size=4)
    with_it = get("efficientnet-lite0", settings).embed(pixels)
    without("openvino")
    _tell_missing.cache_clear()
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        vectors = get("efficientnet-lite0", settings).embed(pixels)
        assert (vectors * with_it).sum(axis=1).min() > 0.99999
    said = [record.getMessage() for record in caplog.records if "OpenVINO" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith("pip install 'cbmir[cpu]'")
