"""How measured numbers stand in texts."""

import math


def with_error(value: float, error: float | None) -> str:
    """``242.5 ± 5.6``: the error to two digits, the value to the same place; without an error the value."""
    if not math.isfinite(value):
        return "-"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    place = math.floor(math.log10(error)) - 1
    places = max(0, -place)
    return f"{round(value, -place):,.{places}f} ± {round(error, -place):,.{places}f}"
