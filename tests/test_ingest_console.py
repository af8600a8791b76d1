"""What the first screen of an ingest says."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cbmir.ingest.report import IngestReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one image and five files that are none, with a table of them."""
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(images / "0.png")
    for number in range(1, 6):
        (images / f"{number}.png").write_bytes(b"no image")
    (images / "table.csv").write_text("filepath\n" + "".join(f"{number}.png\n" for number in range(6)))
    return images


@pytest.mark.parametrize("table", [False, True])
def test_images__the_first_screen(table, folder, cbmir, tmp_path):
    done = cbmir(
        *("ingest", "images", folder / "table.csv" if table else folder, "--encoder", "efficientnet-lite0"),
        *("--store", tmp_path / "store", "--failures", tmp_path / "failures.csv", "--batch-size", "1"),
        *(() if table else ("--labels", "none")),
    )
    assert done.returncode == 3
    screen = done.stderr.splitlines()
    assert screen[0].startswith(f"how {'table.csv' if table else folder} is read: 6 ")
    lines = screen[next(at for at, line in enumerate(screen) if line.startswith("efficientnet-lite0 on ")) :]
    assert lines[0] in ("efficientnet-lite0 on cpu, 1 image a step", "efficientnet-lite0 on cpu, fp32, 1 image a step")
    assert lines[1].startswith("profile small: 6 images of 1280 dimensions take about ")
    assert "GiB" not in lines[1]
    assert "efficientnet-lite0 ran on cpu, fp32" in lines
    failures = lines.index(f"5 failed, each with its reason in {tmp_path / 'failures.csv'}")
    shown = lines[failures + 1 :]
    assert len(shown) == 4
    for number, line in enumerate(shown[:3], start=1):
        assert line.startswith(f"  {number}.png: ")
    assert shown[3] == "  and 2 more"
    assert not any("0.0 images/s" in line or "give --images" in line for line in lines)


def test_report__a_rate_only_where_there_is_one():
    report = IngestReport("c", "e", "f", "cpu, fp32", read=10, stored=10, seconds={"encode": 0.4, "total": 0.5})
    assert report.lines()[1:] == ["e ran on cpu, fp32", "encode 0.4 s; 0.5 s in all, bottleneck: encode"]
    report.seconds = {"encode": 4.0, "total": 5.0}
    assert report.lines()[-1] == "encode 4.0 s; 5.0 s in all, 2.0 images/s, bottleneck: encode"
    nothing = IngestReport("c", "e", "f", "cpu, bf16", read=2, skipped=2, without_row=1, seconds={"total": 2.0})
    assert nothing.lines()[1] == "left out, without a row in a table: 1 vector"
    assert not any("ran on" in line for line in nothing.lines())
