"""Notebooks as pages: their text, their code, and the output that is stored in them."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docs.generate.links import ROOT

FOLDER = "notebooks"


@dataclass
class NotebookPage:
    """A notebook as Markdown.

    Attributes:
        uri: Path of the page on the site.
        title: Its first heading.
        text: Markdown.
        images: Images of its output by file name.
    """

    uri: str
    title: str = ""
    text: str = ""
    images: dict[str, bytes] = field(default_factory=dict)


def paths() -> list[Path]:
    """All notebooks, by name."""
    return sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def page_of(path: Path) -> NotebookPage:
    """Read a notebook; it is not executed."""
    page = NotebookPage(f"{FOLDER}/{path.stem}.md")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := _shown(output, page))]
    page.title = parts[0].partition("\n")[0].removeprefix("# ")
    page.text = "\n\n".join(parts) + f"\n\n---\n\nThis page is the notebook `{path.relative_to(ROOT)}`.\n"
    return page


def _shown(output: Mapping[str, Any], page: NotebookPage) -> str:
    """An output as Markdown; progress on stderr is left out."""
    if output["output_type"] == "stream":
        text = "".join(output["text"])
        return f"```text\n{text}\n```" if output["name"] == "stdout" else ""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{Path(page.uri).stem}-{len(page.images) + 1}.png"
        page.images[name] = base64.b64decode("".join(data["image/png"]))
        return f"![]({name})"
    return f"```text\n{''.join(data.get('text/plain', ''))}\n```"
