"""Files beside the code: a wheel carries them inside the package, a checkout has them beside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped_file(place: str) -> Path | None:
    """Return where a file of the repository, such as ``docs/cards.json``, is; None if nowhere."""
    found = (folder / place for folder in (_PACKAGE, _PACKAGE.parent))
    return next((path for path in found if path.is_file()), None)
