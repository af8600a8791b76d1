"""``python -m docs.generate``: write all pages of the docs site as plain Markdown, and its settings.

Zensical then builds the site from them: see the target `docs` of the Makefile.
"""

import shutil
from pathlib import Path

import click

from docs.generate.site import assemble


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("build/docs"), show_default=True)
def main(out: Path) -> None:
    """Write the pages to OUT/pages and the settings to OUT/mkdocs.yml."""
    shutil.rmtree(out, ignore_errors=True)
    assemble(out)


if __name__ == "__main__":
    main()
