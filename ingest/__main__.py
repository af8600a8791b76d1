"""``python -m ingest``: the same as ``cbmir ingest``."""

from ingest.cli import ingest
from cbmir.options import run

run(ingest, "ingest")
