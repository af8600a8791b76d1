"""``python -m evaluate``: the same as ``cbmir evaluate``."""

from evaluate.cli import evaluate
from cbmir.options import run

run(evaluate, "evaluate")
