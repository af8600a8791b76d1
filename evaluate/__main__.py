"""``python -m evaluate``: the same as ``cbmir evaluate``."""

from cbmir.options import run
from evaluate.cli import evaluate

run(evaluate, "evaluate")
