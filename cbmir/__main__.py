"""``cbmir`` and ``python -m cbmir``."""

import sys


def main() -> None:
    """Entry point of the program; Ctrl-C is no traceback during the imports either."""
    try:
        from cbmir.cli import cli
        from cbmir.options import run
    except KeyboardInterrupt:
        sys.exit(130)
    run(cli, "cbmir")


if __name__ == "__main__":
    main()
