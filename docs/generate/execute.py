"""``python -m docs.generate.execute``: run the notebooks and store their output in them.

Images of patients are not stored: a cell that shows some has the tag ``not-stored``.
"""

from pathlib import Path

import click
import nbformat
from nbclient import NotebookClient

from docs.generate.notebooks import paths

TIMEOUT_S = 300


def executed(path: Path) -> nbformat.NotebookNode:
    """A notebook with the output of a run in a kernel of its own.

    Raises:
        CellExecutionError: a cell has failed; the message has its traceback.
    """
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # has no types
    NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", record_timing=False).execute()
    return notebook


def stored(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The same without progress on stderr, HTML beside text, and images of patients."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        outputs = [] if "not-stored" in cell.metadata.get("tags", []) else cell.outputs
        cell.outputs = [output for output in outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            for kind in set(output.get("data", {})) - {"text/plain", "image/png"}:
                del output.data[kind]
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main() -> None:
    """Run all notebooks."""
    for path in paths():
        nbformat.write(stored(executed(path)), path)  # type: ignore[no-untyped-call]  # has no types
        click.echo(path.name)


if __name__ == "__main__":
    main()
