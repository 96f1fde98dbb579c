"""What a fresh Python costs, by CPU time, among many installed packages.

``python start.py CODE [PACKAGES] [--policies]``: CODE is a name of `CODES`. PACKAGES fake
distributions are installed beside the real ones. They offer a command each, or with ``--policies``
two policies each, half by entry points and half by a manifest.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import turns

CODES = {
    "python": "pass",
    "torch": "import torch",
    "import": "import puffer_policies",
    "list": "from puffer_policies.cli.main import main; main(['list'])",
    "get_policy": (
        "import gymnasium, puffer_policies\n"
        "puffer_policies.get_policy('LSTMWrapper(Default)', gymnasium.make('CartPole-v1'))"
    ),
    # What get_policy needs besides our own files.
    "torch and gymnasium": "import torch, gymnasium; gymnasium.make('CartPole-v1')",
}


def make_strangers(site: Path, number: int) -> None:
    """Install `number` fakes that offer no policies, but a command each."""
    for index in range(number):
        info = site / f"stranger_{index}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: stranger_{index}\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = stranger_{index}:main\n")


def make_packages(site: Path, number: int) -> None:
    """Install `number` fakes: half declare policies by entry points, half by a manifest."""
    for index in range(number):
        name = f"bench_nets_{index}"
        info = site / f"{name}-1.{index}.dist-info"
        info.mkdir()
        description = "A line of a README.\n" * 100
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{index}\n\n{description}"
        )
        (info / "entry_points.txt").write_text(_entry_points(index, name, site))


def _entry_points(index: int, name: str, site: Path) -> str:
    names = [f"Net{index}", f"Conv{index}"]
    if index % 2:
        lines = "".join(f"{each} = {name}.nets:{each}\n" for each in names)
        return f"[puffer_policies.policies]\n{lines}"
    (site / name).mkdir()
    tables = "".join(f'[policies.{each}]\ntarget = "{name}.nets:{each}"\n' for each in names)
    (site / name / "registry.toml").write_text(f"schema = 1\n{tables}")
    return f"[puffer_policies.manifest]\n{name} = {name}:registry.toml\n"


def start(code: str, site: Path) -> tuple[float, float]:
    """Return the wall and the CPU seconds of a fresh interpreter that runs `code`."""
    # Bytecode is cached, as for an installed package, but in a folder that is removed afterwards.
    environ = os.environ | {"PYTHONPATH": str(site), "PYTHONPYCACHEPREFIX": str(site / "cache")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, capture_output=True)
    wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Install the fakes and take turns."""
    code = CODES[turns.words()[0]]
    install = make_packages if "--policies" in sys.argv else make_strangers
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        install(site, turns.number(0))
        start(code, site)  # compiles

        def call(number: int) -> turns.Answer:
            times = [start(code, site) for _ in range(number)]
            wall, cpu = (sum(each) for each in zip(*times, strict=True))
            return {"wall": wall, "cpu": cpu}

        turns.take_turns(call)


if __name__ == "__main__":
    main()
