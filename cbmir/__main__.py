"""``python -m cbmir``."""

from cbmir.cli import main

main()
