"""Values as JSON can hold them."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Numbers, text and containers for JSON: undefined numbers become null, infinite ones text.

    >>> plain({"tau": float("nan"), "steps": (0, 1)}), plain(float("inf"))
    ({'tau': None, 'steps': [0, 1]}, 'inf')
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
