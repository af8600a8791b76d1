"""``python -m ingest``: the same as ``cbmir ingest``."""

from cbmir.options import run
from ingest.cli import ingest

run(ingest, "ingest")
