"""Files that ship beside the code, found alike in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path

# A wheel carries them inside the package (see pyproject.toml), a checkout has them beside it.
_FOLDERS = (Path(__file__).parent, Path(__file__).parent.parent)


def shipped_file(name: str) -> Path | None:
    """Return the path of a file of the repository, such as ``docs/cards.json``, or None."""
    paths = (folder / name for folder in _FOLDERS)
    return next((path for path in paths if path.is_file()), None)
