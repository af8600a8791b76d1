"""The cells of a table as texts, and as JSON."""

import math
from typing import Any


def text_of(value: Any) -> str:
    """A cell as text without the space around it; empty where it is missing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    return "" if _empty(value) else str(value).strip()


def json_of(value: Any) -> Any:
    """A cell as JSON, None where it is missing."""
    if isinstance(value, str):
        return value or None
    if _empty(value):
        return None
    if isinstance(value, dict):
        return {str(name): json_of(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(item) for item in value]
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return text_of(value)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
