"""Writes docs/checks.md from the checks and from the bad policies that prove them.

Run it by ``make docs``. A test compares the page with the output of this tool.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from puffer_policies.checks.engine.suite import all_checks
from puffer_policies.checks.model import Check, Scope

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "checks.md"
MUTANTS = ROOT / "tests" / "checks"

FAMILIES = {
    "B": "Build",
    "S": "Shapes and dtypes",
    "R": "Recurrence",
    "A": "Actions and masks",
    "N": "Numerics and initialization",
    "P": "Modes, persistence and export",
    "T": "Trainability",
}

INTRODUCTION = """\
# The checks

<!-- Written by tools/write_checks_page.py. Run `make docs` after a change. -->

Each check tests one promise of the [contract](contract.md). The suite runs on any policy: by its
registered name, as a class, from a file that is not installed, or already built.

```console
$ puffer-policies check Default --env CartPole-v1 --select S
```

```python
from puffer_policies.checks import check_policy

report = check_policy("LSTMWrapper(Default)", "CartPole-v1", select="S,B2")
assert report.ok
```

Without an environment, a policy is checked on tiny spaces of every kind that its record declares.
With one, the class is built with the environment, and runs on what it sends: the environment is
reset and stepped with random actions. `Spaces(observation, action)` in its place is sampled.

`puffer-policies check path/to/file.py::Class` checks code that is not registered. A function in
the place of the class, `path/to/file.py::factory` or `module:factory`, builds the policy itself; it
gets the environment if it takes an argument. [PufferLib's policies](pufferlib.md) has more on code
that was written for PufferLib.

Of a policy without memory `forward` gets sequences as the trainer gives them, `(B*T, *obs)`,
unless it returns B*T rows for `(B, T, *obs)` by itself.

Actions of a Dict or Tuple are judged part by part, and a finding names the part by the keys that
lead to it: `part 'arm.speed'`. Where a package registered one type for the logits of all parts,
the checks of densities (A6), first entropies (N5) and reachable answers (N7) can't tell choices
from real numbers, and leave them out.

The checks run in a worker process. A policy that hangs, crashes or calls `sys.exit` gets a report
all the same, and the run goes on. `--time-limit` is in seconds of CPU time, so that a loaded
machine gives no false verdict; by the clock a check may take four times as long. `--fast` runs only
the checks of building and of shapes, in about a second.

## Levels

The first line of a report says whether the policy works. Every finding has a level:

| Level | A policy that breaks such a promise |
|---|---|
| error | can't be trained |
| failure | trains, but not on exactly what it observes, remembers, draws and saves |
| advice | works, and others of its kind train better |

`--level error --level failure` leaves advice out; `levels=` of the functions does so too. The exit
code is 0 without an error or a failure, 1 with one, or if nothing ran, and 2 if the question was
wrong, such as an unknown name.

## One cause, one finding

B9 runs the policy before any other check does. If it raises, returns something else than logits and
values, or never ends, that is the finding, with its place in your file, and nothing else is run.
What else has one cause is told once as well: an exception from one place, whatever the spaces; a
check that fails on several spaces, or in a stack and on a part of it; and a check that can't be
judged because another fails, which the finding lists under "so also". Those may pass once it is
mended, and are told by themselves if they do not. In `--json` such results have the same `cause`.

For a policy that is built already, `puffer_policies.checks.require_shapes(policy, env)` compares
the shapes of its outputs with the contract, and `require_conformance(policy, env)` runs the suite.
Both work on copies, in the same process, and raise a `ContractError` that lists what is wrong.

## In your tests

One line in the tests of a package checks every policy and wrapper that the package registers:

```
from puffer_policies.checks import conformance_tests

test_conformance = conformance_tests("acme-policies")
```

Each check of each name on each pair of spaces is a test of its own. The pairs are these:

- A policy is tried on every kind of observation and of action that its record declares.
- A memory, which is a subclass of `RecurrentWrapper`, is tried around `Default` on two pairs: a
  vector with choices as actions, and a nested Dict with real ones. It stands between the encoder
  and the heads and sees a batch of hidden vectors, so further spaces would prove nothing new.
- Any other wrapper may change observations or actions. It is tried around `Default` on every kind
  that `Default` serves, and around `Default` with a memory.
- Every wrapper is tried around `Default` with an action mask, too. Both have to be handed on: the
  checks run there that did not apply to it around `Default`.
- A policy is also tried inside `LSTMWrapper` and inside each wrapper of the package, on the first
  of its pairs, with the checks of both spaces and those of memory and masks. Both parts are tried
  with all others by themselves.

A check says what its verdict depends on (its `scope`), and runs on as many pairs as tell more:

- `Scope.POLICY`, which looks at how the policy is saved, copied and exported, whatever the spaces
  are ({policy}), on the first pair only, and not inside wrappers;
- `Scope.MODULES`, which looks at modules and memory, whatever observations and actions mean
  ({modules}), on a pair with choices and on one with real actions, and inside a wrapper on one;
- `Scope.OBSERVATIONS`, which looks at what the policy makes of observations ({observations}), once
  for each observation space with choices and with real actions, and not inside wrappers;
- `Scope.SPACES`, all others, on every pair.

A policy is built once for each pair, and every check gets a copy.

A cause fails one test. Further tests that meet it are skipped, and name the test that tells it;
with workers of pytest-xdist each of them fails once. Advice fails no test: it is the reason of a
skip, and is listed at the end of the run.

`pytest --policy NAME` runs the suite as tests without a test file. With `--junitxml=report.xml`
pytest writes the results for continuous integration.

## Declarations

A plug-in adds checks of its own in the hook `register_checks`. A class can declare what is intended
in an attribute, such as `conformance = {"frozen": ["encoder.0.*"]}`:

| Key | Meaning | Read by |
|---|---|---|
| `frozen` | patterns of the names of parameters that get no gradient | N6, T1 |
| `detached` | patterns of the names of parameters that the actor's loss does not reach | N6 |
| `bounded` | which of `values`, `actions`, `choices` are bounded on purpose | N7 |
| `tied` | names of tensors that share memory on purpose | P5 |
| `init` | `actor_gain`, `critic_gain`, `recurrent` of the first weights | N4 |
| `initialises_wrapped` | why a wrapper changes the weights of the policy inside | N4 |
| `first_entropy`, `first_value` | share of the largest first entropy; size of first values | N5 |
| `batch_statistics` | why rows depend on each other in training | S5 |
| `train_differs` | why `train()` and `eval()` differ | P1, R11 |
| `unread` | patterns of the names of numbers or parts that are left out, as `3` or `time` | S11 |
| `unordered` | patterns of the names of leaves whose numbers have no order, such as `hand` | S11 |
| `hidden_rows` | why it reads rows of an observation that a mask hides | S12 |
| `half_precision` | why it computes in half precision where its weights do not show it | N8, S7 |
| `codes` | number of codes in integer observations, if the space has room for more | all |
| `action_mask` | that it takes an action mask | A4, A5 |

## Every check

A *static* check looks at the policy without running it, a *dynamic* one runs it on small random
batches, and one of *trainability* trains it for seconds. The last only run when they are selected,
by `--tier trainability` or by their code. Where a part of a promise is less grave than the rest,
the level of a finding can be below that of the check: bytes that are not scaled, gains that are not
as declared, a tensor under two names, an action where a mask allows none and an export for one
number of rows are advice.
"""


def page() -> str:
    """Return the text of docs/checks.md."""
    checks = all_checks()
    codes = {scope: [each.code for each in checks if each.scope is scope] for scope in Scope}
    introduction = INTRODUCTION
    for scope, members in codes.items():
        introduction = introduction.replace(f"{{{scope}}}", ", ".join(members))
    parts = [introduction, _overview(checks)]
    for letter, members in groupby(checks, key=lambda each: each.code.rstrip("0123456789")):
        parts.append(f"## {FAMILIES[letter]}\n")
        parts += [_section(each) for each in members]
    parts.append(_mutant_table(mutants()))
    return "\n".join(parts)


def mutants() -> list[Any]:
    """Return every bad policy of the tests, sorted by code and name."""
    if str(MUTANTS) not in sys.path:
        sys.path.insert(0, str(MUTANTS))
    mutants = {}
    for path in sorted(MUTANTS.glob("mutants_*.py")):
        module = importlib.import_module(path.stem)
        for name, value in vars(module).items():
            if name.startswith("MUTANTS_"):
                mutants.update({str(each): each for each in value})
    return sorted(mutants.values(), key=lambda each: (_order(each.code), each.name))


def _order(code: str) -> tuple[int, int]:
    letter = code.rstrip("0123456789")
    return list(FAMILIES).index(letter), int(code[len(letter) :])


def _overview(checks: Iterable[Check]) -> str:
    rows = [
        f"| [{each.code}](#{each.code.lower()}-{each.name}) | {_cell(each.promise)} "
        f"| {each.tier} | {each.level} |"
        for each in checks
    ]
    return "\n".join(["| Code | Promise | Tier | Level |", "|---|---|---|---|", *rows, ""])


def _section(each: Check) -> str:
    lines = [
        f"### {each.code} {each.name}\n",
        f"{each.promise}\n",
        f"**Why.** {each.why}\n",
        f"**Fix.** {each.fix}\n",
    ]
    if each.needs:
        lines.append(f"**Judged after** {', '.join(each.needs)}.\n")
    return "\n".join(lines)


def _mutant_table(mutants: Iterable[Any]) -> str:
    rows = [
        f"| {each.code} | {_cell(each.name)} | {_also(each)} | {_note(each)} |" for each in mutants
    ]
    return "\n".join(
        [
            "## How we know that they catch\n",
            "Our tests run the suite on these deliberately bad policies. The check of its code "
            "catches each, and no other does except those named beside it.\n",
            "| Code | Bad policy | Also caught by | What it does, or where it was met |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _also(mutant: Any) -> str:
    return "; ".join(f"{code}: {_cell(why)}" for code, why in mutant.also.items())


def _note(mutant: Any) -> str:
    """Return its note, or the docstring of its class."""
    text = mutant.note or (mutant.make.__doc__ if isinstance(mutant.make, type) else "") or ""
    return _cell(text.strip().partition("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
