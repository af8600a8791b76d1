"""``cbmir collections salvage``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cbmir.collections.refusals import told
from cbmir.errors import CollectionError, StoreDamagedError, StoreError
from cbmir.options import EXIT_FAILURES, card_options, json_option, opened, say, store_option

if TYPE_CHECKING:
    from cbmir.options import CardChoice


@click.command("salvage")
@click.argument("damaged", metavar="DIR|NAME")
@click.argument("name", metavar="NEW")
@store_option
@card_options("Whose vectors they are, if collection.json is lost.")
@json_option
def salvage_(damaged: str, name: str, location: str, choice: "CardChoice", as_json: bool) -> int:
    """Take what can be read out of a damaged collection of a directory into the new collection NEW.

    DIR is the folder of the damaged collection, NAME one in the store. It is read from a copy, and never written to.
    Where the write-ahead log or a segment can't be read, all others are. What is lost is counted; ingest again what is
    missing. The exit code is 3 where something is lost.
    """
    from cbmir.collections.salvage.salvage import salvage
    from cbmir.store.edge import EdgeStore, read_card

    with opened(location) as store:
        folder = Path(damaged)
        if isinstance(store, EdgeStore) and (store.path / damaged).is_dir():
            folder = store.path / damaged
        if not folder.is_dir():
            raise StoreError(f"there is no collection {damaged} in {store.location}, and no folder {damaged}")
        try:
            card = read_card(folder)
        except (CollectionError, StoreDamagedError) as error:
            if choice.encoder is None:
                raise StoreError(
                    f"{error}; whose vectors these are must be said: --encoder NAME, and --dim N for vectors from files"
                ) from error
            card = choice.card()
        report = salvage(folder, store, name, card)
    code = told(report, as_json)
    for part in report.lost:
        say(f"lost: {part}")
    return EXIT_FAILURES if report.lost else code
