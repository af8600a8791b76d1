"""``python -m examples.samples``."""

from examples.samples.cli import main

main(prog_name="python -m examples.samples")
