"""``python -m cbmir.ingest``: the same as ``cbmir ingest``."""

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program."""
    leave_out_working_directory()
    from cbmir.ingest.cli import ingest
    from cbmir.options import run

    run(ingest, "ingest")


if __name__ == "__main__":
    main()
