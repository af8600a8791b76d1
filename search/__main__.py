"""``python -m cbmir.search``: the same as ``cbmir search``."""

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program."""
    leave_out_working_directory()
    from cbmir.options import run
    from cbmir.search.cli import search

    run(search, "search")


if __name__ == "__main__":
    main()
