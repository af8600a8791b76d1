"""Frozen encoders by name. Every module here that has `SPECS` and `load` is a loader; `get` finds the right one."""

from cbmir.encoders.base import Encoder, EncoderSettings, EncoderSpec
from cbmir.encoders.registry import get, specs

__all__ = ["Encoder", "EncoderSettings", "EncoderSpec", "get", "specs"]
