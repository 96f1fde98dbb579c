"""Writes docs/checks.md from the checks and from the bad policies that prove them.

Run it by ``make docs``. A test compares the page with what this prints.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from puffer_policies.checks.engine.suite import all_checks
from puffer_policies.checks.model import Check

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "checks.md"
MUTANTS = ROOT / "tests" / "checks"

FAMILIES = {
    "B": "Build",
    "S": "Shapes and dtypes",
    "R": "Recurrence",
    "A": "Actions and masks",
    "N": "Numerics and initialisation",
    "P": "Modes, persistence and export",
    "T": "Trainability",
}

INTRODUCTION = """\
# The checks

<!-- Written by tools/write_checks_page.py: run `make docs` after a change. -->

Each check is one promise of the [contract](contract.md). They run over any policy: registered,
a class, a file that is not installed, or one that is built already.

```console
$ puffer-policies check Default --env CartPole-v1 --select S
```

```python
from puffer_policies.checks import check_policy

report = check_policy("LSTMWrapper(Default)", "CartPole-v1", select="S,B2")
assert report.ok
```

Without an environment, a policy is checked with tiny spaces of every kind that its record
declares. `puffer-policies check path/to/file.py::Class` checks code that is not registered, and
`pytest --policy NAME` runs each check as a test. In the tests of a package of policies, one line
tests every name that the package registers:

```
from puffer_policies.checks import conformance_tests

test_conformance = conformance_tests("acme-policies")
```

Checks run in a worker process: a policy that hangs, crashes or calls `sys.exit` gets a report, and
the run goes on. Exit codes: 0 all good, 1 something failed or nothing ran, 2 a mistake in the
question. For a policy that is built already, `puffer_policies.checks.require_shapes(policy, env)`
compares the shapes of its outputs with the contract, and `require_conformance(policy, env)` runs
the same checks in the same process; both raise a `ContractError` that lists what is wrong.

A plug-in adds checks of its own by the hook `register_checks`. A class can tell the checks about
itself in an attribute, such as `conformance = {"frozen": ["encoder.0.*"]}`:

| Key | What it says | Read by |
|---|---|---|
| `frozen` | patterns of the names of parameters that get no gradient | N6, T1 |
| `tied` | names of tensors that share memory on purpose | P5 |
| `init` | `actor_gain`, `critic_gain`, `recurrent` of the first weights | N4 |
| `initialises_wrapped` | why a wrapper changes the weights of what it holds | N4 |
| `first_entropy`, `first_value` | share of the largest first entropy; size of first values | N5 |
| `batch_statistics` | why rows depend on each other in training | S5 |
| `train_differs` | why `train()` and `eval()` differ | P1, R11 |
| `action_mask` | that it takes an action mask | A4, A5 |

**Tiers**: *static* looks without running the policy, *dynamic* runs it on small random batches,
*trainability* trains it for seconds and only runs when asked for
(`--tier trainability`, or by its code).
"""


def page() -> str:
    """Return the text of docs/checks.md."""
    checks = all_checks()
    parts = [INTRODUCTION, _overview(checks)]
    for letter, members in groupby(checks, key=lambda each: each.code.rstrip("0123456789")):
        parts.append(f"## {FAMILIES[letter]}\n")
        parts += [_section(each) for each in members]
    parts.append(_mutant_table(mutants()))
    return "\n".join(parts)


def mutants() -> list[Any]:
    """Return every bad policy of the tests, sorted by code and name."""
    if str(MUTANTS) not in sys.path:
        sys.path.insert(0, str(MUTANTS))
    found = {}
    for path in sorted(MUTANTS.glob("mutants_*.py")):
        module = importlib.import_module(path.stem)
        for name, value in vars(module).items():
            if name.startswith("MUTANTS_"):
                found.update({str(each): each for each in value})
    return sorted(found.values(), key=lambda each: (_order(each.code), each.name))


def _order(code: str) -> tuple[int, int]:
    letter = code.rstrip("0123456789")
    return list(FAMILIES).index(letter), int(code[len(letter) :])


def _overview(checks: Iterable[Check]) -> str:
    rows = [
        f"| [{each.code}](#{each.code.lower()}-{each.name}) | {_cell(each.promise)} | {each.tier} |"
        for each in checks
    ]
    return "\n".join(["| Code | Promise | Tier |", "|---|---|---|", *rows, ""])


def _section(each: Check) -> str:
    lines = [
        f"### {each.code} {each.name}\n",
        f"{each.promise}\n",
        f"**Why.** {each.why}\n",
        f"**Fix.** {each.fix}\n",
    ]
    return "\n".join(lines)


def _mutant_table(bad: Iterable[Any]) -> str:
    rows = [f"| {each.code} | {_cell(each.name)} | {_also(each)} | {_note(each)} |" for each in bad]
    return "\n".join(
        [
            "## How we know that they catch\n",
            "Each of these deliberately bad policies of our tests is caught by the check of its "
            "code, and by no other but those named beside it.\n",
            "| Code | Bad policy | Also caught by | What it does, or where it was met |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _also(mutant: Any) -> str:
    return "; ".join(f"{code}: {_cell(why)}" for code, why in mutant.also.items())


def _note(mutant: Any) -> str:
    """Return its note, or what its class says of itself."""
    said = mutant.note or (mutant.make.__doc__ if isinstance(mutant.make, type) else "") or ""
    return _cell(said.strip().partition("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
