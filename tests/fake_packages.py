"""Installs fake distributions into a temporary folder on the path, and forgets their modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent


class Site:
    """A folder on ``sys.path`` into which tests install packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        distribution: str,
        *,
        version: str = "1.0",
        entry_points: Mapping[str, Mapping[str, str]] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Write a ``.dist-info`` with entry points (group -> name -> value), and module files."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nName: a README\n"
        )
        groups = [
            f"[puffer_policies.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items())
            for group, entries in (entry_points or {}).items()
        ]
        (info / "entry_points.txt").write_text("\n".join(groups))
        write_files(self.folder, files or {})
        importlib.invalidate_caches()


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write dedented texts below `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")


@contextmanager
def site_in(folder: Path) -> Iterator[Site]:
    """Put `folder` on the path; afterwards take it off, with every module that came from it."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield Site(folder)
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(folder)):
                del sys.modules[name]
        importlib.invalidate_caches()
