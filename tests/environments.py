"""Makes virtual environments in a moment, which see all that the tests' own environment has."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from fork_server import Forks

_SCRIPT = """#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.exit({function}())
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: installing into it changes nothing else."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def in_forks(self) -> Path:
        """Return the folder of the commands that run in forks."""
        return self.folder / "in-forks"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables of a shell in which it is active."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        return {
            **kept,
            "PATH": os.pathsep.join([str(self.in_forks), str(self.bin), os.environ["PATH"]]),
            "VIRTUAL_ENV": str(self.folder),
            "OMP_NUM_THREADS": "1",
            # What builds a package is there already, and no test asks an index for anything.
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def run(self, command: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a line of shell in it."""
        return subprocess.run(
            command, shell=True, cwd=cwd, env=self.variables, capture_output=True, text=True
        )


def make_environment(folder: Path, forks: Forks) -> Environment:
    """Make one without pip of its own; the tests' pip and packages are seen through a .pth file.

    Its commands of ours, its ``pytest`` and its ``python`` run in forks; its ``pip`` starts anew.
    """
    venv.create(folder, symlinks=True)
    made = Environment(folder)
    lines = [f"import site; site.addsitedir({place!r})" for place in _places()]
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "of_the_tests.pth").write_text("\n".join(lines) + "\n")
    made.in_forks.mkdir()
    write_commands(made.in_forks, forks, python=made.python, site=str(packages))
    _write_script(made.bin / "pip", python=made.python)
    return made


def write_commands(folder: Path, forks: Forks, *, python: Path, site: str = "") -> None:
    """Write ``python``, and as pip does ``puffer-policies`` and ``pytest``, which run in forks."""
    forks.write_python(folder / "python", python=python, site=site)
    for name in ("puffer-policies", "pytest"):
        _write_script(folder / name, python=folder / "python")


def _places() -> list[str]:
    return [place for place in sys.path if place.endswith("-packages") and place not in _user()]


def _user() -> tuple[str, ...]:
    return (site.getusersitepackages(),)


def _write_script(path: Path, *, python: Path) -> None:
    [script] = entry_points(group="console_scripts", name=path.name)
    path.write_text(_SCRIPT.format(python=python, module=script.module, function=script.attr))
    path.chmod(0o755)
