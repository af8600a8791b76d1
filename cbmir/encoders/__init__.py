"""Frozen encoders by name. What is known of each is in `cards/`; a module here with `SPECS` is a loader."""

from typing import TYPE_CHECKING, Any

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.registry import get, given, specs

__all__ = ["Encoder", "EncoderSettings", "EncoderSpec", "OwnEncoder", "get", "given", "specs"]

if TYPE_CHECKING:
    from cbmir.encoders.own import OwnEncoder


def __getattr__(name: str) -> Any:
    """`OwnEncoder`, which needs Pillow."""
    if name != "OwnEncoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cbmir.encoders.own import OwnEncoder

    return OwnEncoder
