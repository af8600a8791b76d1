"""``cbmir`` and ``python -m cbmir``."""

import sys

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program; Ctrl-C is no traceback during the imports either."""
    leave_out_working_directory()
    try:
        from cbmir.cli import cli
        from cbmir.options import run
    except KeyboardInterrupt:
        sys.exit(130)
    run(cli, "cbmir")


if __name__ == "__main__":
    main()
