"""``python -m search``: the same as ``cbmir search``."""

from search.cli import search
from cbmir.options import run

run(search, "search")
