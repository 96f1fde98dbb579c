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
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from gymnasium import spaces as gym

from puffer_policies.assembly.header import installed_version
from puffer_policies.checks import check_policy
from puffer_policies.spaces import Spaces

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "interop.json"

VECTOR = gym.Box(-1.0, 1.0, (4,))
CHOICES = Spaces(VECTOR, gym.Discrete(3))
REALS = Spaces(VECTOR, gym.Box(-1.0, 1.0, (2,)))
IMAGES = Spaces(gym.Box(0, 255, (4, 84, 84), np.uint8), gym.Discrete(3))
PARTS = Spaces(gym.Dict({"at": VECTOR, "kind": gym.Discrete(4)}), gym.Discrete(3))
STOCK = (
    ("rllib:DefaultPPOTorchRLModule", "ray", CHOICES),
    ("rsl_rl:MLPModel", "rsl-rl-lib", REALS),
    ("sb3:CnnPolicy", "stable-baselines3", IMAGES),
    ("sb3:MlpPolicy", "stable-baselines3", CHOICES),
    ("sb3:MlpPolicy", "stable-baselines3", REALS),
    ("sb3:MultiInputPolicy", "stable-baselines3", PARTS),
    ("skrl:SeparateModels", "skrl", CHOICES),
    ("skrl:SeparateModels", "skrl", REALS),
    ("skrl:SharedModel", "skrl", CHOICES),
    ("skrl:SharedModel", "skrl", REALS),
)
"""Short name of a policy, its distribution, and the spaces that it is checked on."""


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


def findings_of(name: str, distribution: str, spaces: Spaces) -> dict[str, Any]:
    """Return what the checker says of a policy by its short name."""
    report = check_policy(name, spaces)
    return {
        "name": name,
        "version": f"{distribution} {installed_version(distribution)}",
        "spaces": f"{spaces.observation}, {spaces.action}",
        "passed": report.counts["passed"],
        "findings": {
            each.first.code: f"{each.level}: {each.first.expected}, and it is {each.first.actual}"
            for each in report.findings
        },
    }


def main(arguments: list[str]) -> None:
    """Measure, and add it to what was measured before."""
    data = read_data()
    for name, distribution, spaces in STOCK:
        if installed_version(distribution):
            findings = findings_of(name, distribution, spaces)
            data["findings"][f"{name}, {findings['spaces']}"] = findings
        else:
            print(f"{name}: {distribution} is not installed")
    data["returns"].update(learned(arguments))
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"wrote {DATA.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
