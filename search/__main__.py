"""``python -m search``: the same as ``cbmir search``."""

from cbmir.options import run
from search.cli import search

run(search, "search")
