"""``python -m evaluate``: the same as ``cbmir evaluate``."""

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program."""
    leave_out_working_directory()
    from cbmir.options import run
    from evaluate.cli import evaluate

    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
