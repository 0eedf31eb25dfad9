"""How long ago something was, as people say it."""

from __future__ import annotations

_UNITS = (("days", 86_400), ("hours", 3600), ("minutes", 60))


def age_text(seconds: float) -> str:
    """Return a duration in its largest unit of which there are two; one that is negative counts as none."""
    for unit, size in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} seconds"
