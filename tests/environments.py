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

_SCRIPT = "#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"


@dataclass(frozen=True)
class Environment:
    """A virtual environment: installing into it changes nothing else."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables of a shell in which it is active."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
        return {
            **kept,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
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


def make_environment(folder: Path) -> Environment:
    """Make one without pip of its own; the tests' pip and packages are seen through a .pth file."""
    venv.create(folder, symlinks=True)
    made = Environment(folder)
    lines = [f"import site; site.addsitedir({place!r})" for place in _places()]
    packages = next((folder / "lib").glob("python*/site-packages"))
    (packages / "of_the_tests.pth").write_text("\n".join(lines) + "\n")
    for script in entry_points(group="console_scripts"):
        if script.name in ("pip", "pytest", "puffer-policies"):
            _write_script(made, script.name, script.module, script.attr)
    return made


def _places() -> list[str]:
    return [place for place in sys.path if place.endswith("-packages") and place not in _user()]


def _user() -> tuple[str, ...]:
    return (site.getusersitepackages(),)


def _write_script(environment: Environment, name: str, module: str, function: str) -> None:
    text = _SCRIPT.format(python=environment.python, module=module, function=function)
    path = environment.bin / name
    path.write_text(text)
    path.chmod(0o755)
