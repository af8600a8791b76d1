"""Small text files that say how something is: manifests, experiments, relations of labels."""

from pathlib import Path

MAX_BYTES = 64_000_000
"""No file that people write has as much; a manifest has some hundred bytes a file it tells of."""
NOT_READ = (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError)
"""What reading such a file and taking it apart can raise, where it holds something else than it should."""


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError, UnicodeDecodeError: it can't be read.
        ValueError: it has over `most` bytes, or is no file.
    """
    if path.exists() and not path.is_file():  # to read a pipe would block
        raise ValueError(f"{path.name} is no file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return data.decode("utf-8")
