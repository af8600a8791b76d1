"""``python -m ingest``: the same as ``cbmir ingest``."""

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program."""
    leave_out_working_directory()
    from cbmir.options import run
    from ingest.cli import ingest

    run(ingest, "ingest")


if __name__ == "__main__":
    main()
