"""Measures what docs/interop/index.md says of the trainers of others, and of their policies.

It runs the tests that learn there, which takes many minutes, and checks each policy of theirs that
has a short name, of those libraries that are installed. What was measured before stays. Arguments
go to pytest::

    python tools/measure_interop.py -k sb3

The figures are in docs/interop.json, from which ``make docs`` writes the tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from puffer_policies.checks import check_policy
from puffer_policies.errors import MissingDependency

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "interop.json"

STOCK = {
    "sb3:MlpPolicy": ("stable_baselines3", "CartPole-v1"),
    "sb3:CnnPolicy": ("stable_baselines3", "puffer_policies/Breakout-v0"),
    "skrl:SeparateModels": ("skrl", "CartPole-v1"),
    "skrl:SharedModel": ("skrl", "CartPole-v1"),
    "rsl_rl:MLPModel": ("rsl-rl-lib", "Pendulum-v1"),
    "rllib:DefaultPPOTorchRLModule": ("ray", "CartPole-v1"),
}
"""Short name of a policy -> its distribution, and the env that it is checked on."""


def read_data() -> dict[str, Any]:
    """Return what was measured: ``returns`` and ``findings``."""
    if not DATA.exists():
        return {"returns": {}, "findings": {}}
    data: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return data


def learned(arguments: list[str]) -> dict[str, Any]:
    """Run the tests that learn -> trainer and env -> what they noted."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--interop", "--exhaustive", "tests/interop"),
                *("-p", "no:randomly", "-k", "solved", f"--junitxml={report}"),
                *("-o", "junit_family=xunit1", *arguments),  # the default has no properties
            ],
            cwd=ROOT,
            check=False,  # a return that is too low is measured as well
        )
        notes = [
            json.loads(each.get("value", ""))
            for each in ElementTree.parse(report).iter("property")
            if each.get("name") == "return"
        ]
    return {f"{note['trainer']}, {note['policy']}, {note['env']}": note for note in notes}


def findings_of(name: str) -> dict[str, Any]:
    """Return what the checker says of a policy by its short name."""
    distribution, env = STOCK[name]
    report = check_policy(name, env)
    return {
        "version": f"{distribution} {metadata.version(distribution)}",
        "env": env,
        "passed": report.counts["passed"],
        "findings": {
            each.first.code: f"{each.level}: {each.first.actual or each.first.message}"
            for each in report.findings
        },
    }


def main(arguments: list[str]) -> None:
    """Measure, and add it to what was measured before."""
    data = read_data()
    for name in STOCK:
        try:
            data["findings"][name] = findings_of(name)
        except MissingDependency as error:
            print(f"{name}: {error.problem}")
    data["returns"].update(learned(arguments))
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {DATA.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
