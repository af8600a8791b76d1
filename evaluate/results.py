"""What every result can do besides its own: be printed as a table, and become a frame."""

import html
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


class Result(ABC):
    """A result of an analysis: printed it is its table for people, in a notebook too."""

    __slots__ = ()

    @abstractmethod
    def table(self) -> str:
        """The result for people."""

    def frame_rows(self) -> list[dict[str, Any]]:
        """The rows of `to_pandas`, with the collection and the encoder where all are of one."""
        card, setting = getattr(self, "encoder", None), getattr(self, "setting", None)
        subject = {"collection": setting.collection, "encoder": card.name} if card and setting else {}
        return [subject | asdict(row) for row in getattr(self, "rows", ())]

    def to_pandas(self) -> "pd.DataFrame":
        """The figures, a row each."""
        import pandas as pd

        return pd.DataFrame(self.frame_rows())

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"
