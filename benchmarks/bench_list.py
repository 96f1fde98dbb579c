"""Measures what listing the names costs a fresh Python among 200 and 400 packages.

Prints CPU milliseconds (user and system, median and best of several runs) of a bare Python start
and of the command ``puffer-policies list``. Run it as
``python benchmarks/bench_list.py [packages] [runs]``.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIST = "from puffer_policies.cli.main import main; main(['list'])"


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


def cpu_milliseconds(code: str, *, site: Path, runs: int) -> list[float]:
    """Return the CPU time of each of several fresh interpreters that run `code`."""
    # Bytecode is cached, as for an installed package, but in a folder that is removed afterwards.
    environ = os.environ | {"PYTHONPATH": str(site), "PYTHONPYCACHEPREFIX": str(site / "cache")}
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, env=environ, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append(seconds * 1e3)
    return times


def main() -> None:
    """Print the figures."""
    packages = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 15
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        for title, code, install in (
            ("python -c pass", "pass", None),
            ("list, no package", LIST, None),
            (f"list, {packages} packages of others", LIST, make_strangers),
            (f"list, {packages} more with policies", LIST, make_packages),
        ):
            if install is not None:
                install(site, packages)
            times = cpu_milliseconds(code, site=site, runs=runs + 1)[1:]  # the first compiles
            print(
                f"{title:<32} median {statistics.median(times):6.1f} ms  best {min(times):6.1f} ms"
            )


if __name__ == "__main__":
    main()
