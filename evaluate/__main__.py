"""``python -m cbmir.evaluate``: the same as ``cbmir evaluate``."""

from cbmir.safepath import leave_out_working_directory


def main() -> None:
    """Entry point of the program."""
    leave_out_working_directory()
    from cbmir.evaluate.cli import evaluate
    from cbmir.options import run

    run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
