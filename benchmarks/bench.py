"""Run the benchmark suite: print its table, and say which ratios fell since the stored result.

    python benchmarks/bench.py                        everything
    python benchmarks/bench.py --only act train/mlp   cases whose names begin so
    python benchmarks/bench.py --quick                a fifth of the time: a first impression
    python benchmarks/bench.py --store                and keep the result, docs/performance.json
    python benchmarks/bench.py --list                 the names of the cases

The others are measured with the interpreters that ``--peers`` and ``--pufferlib`` name, which
``make bench`` sets up. Whoever is missing is left out, with the reason in the table. The result is
written after every case, so that an interruption loses only the case that it interrupts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from suite import report
from suite.cases import CASES, GROUPS
from suite.harness import FULL, QUICK, Case, measure

ROOT = Path(__file__).parent.parent
STORED = ROOT / "docs" / "performance.json"
LATEST = ROOT / "build" / "bench.json"

BUSY = 0.6
"""The load of each core from which a candidate that runs alone is disturbed."""


def selected(only: list[str]) -> list[Case]:
    """Return the cases whose names begin with any of these: all if there are none.

    Raises:
        SystemExit: a beginning that no case has.
    """
    for start in only:
        if not any(case.name.startswith(start) for case in CASES):
            raise SystemExit(f"No case begins with {start!r}; --list has their names.")
    return [case for case in CASES if not only or case.name.startswith(tuple(only))]


def versions(pythons: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return what each environment has installed.

    Raises:
        SystemExit: an interpreter that can't be started.
    """
    found = {}
    for home, python in pythons.items():
        try:
            found[home] = report.versions(python)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"The interpreter of {home!r} does not run: {error}.") from None
    return found


def run(
    cases: list[Case], data: report.Record, options: argparse.Namespace, pythons: dict[str, str]
) -> bool:
    """Measure the cases one after the other; return whether none was interrupted."""
    try:
        for index, case in enumerate(cases, 1):
            start = time.monotonic()
            result = measure(case, pythons, budget=QUICK if options.quick else FULL)
            record = report.record_of(case, result)
            data["cases"][case.name] = record
            report.write(options.output, data)
            print(_line(index, len(cases), case, record, time.monotonic() - start), flush=True)
    except KeyboardInterrupt:
        print("Interrupted; what was measured before is kept.", file=sys.stderr)
        return False
    return True


def _warn_if_busy(load: float) -> None:
    if load > BUSY * (os.cpu_count() or 1):
        print(
            f"Other processes keep the machine busy (load {load:.1f}): the ratios will be noisy.",
            file=sys.stderr,
        )


def _line(index: int, number: int, case: Case, record: report.Record, seconds: float) -> str:
    ratios = ", ".join(f"{name} {each['median']:.2f}" for name, each in record["ratios"].items())
    missing = "".join(f"; {name} left out: {why}" for name, why in record["missing"].items())
    return f"[{index}/{number}] {case.name}: {ratios or 'done'}{missing} ({seconds:.0f} s)"


def require_same(stored: report.Record, data: report.Record, cases: list[Case]) -> None:
    """Refuse to measure `cases` for a stored result into whose others they would not fit.

    Raises:
        SystemExit: those were measured on another machine or with other versions.
    """
    if not stored["cases"].keys() - {case.name for case in cases}:
        return
    different = [key for key in ("machine", "versions") if stored[key] != data[key]]
    if different:
        raise SystemExit(
            f"The stored result has another {' and other '.join(different)}: run every case."
        )


def merged(stored: report.Record, data: report.Record) -> report.Record:
    """Return the stored result with the cases of a new one in the place of theirs."""
    kept = {name: each for name, each in stored["cases"].items() if name not in data["cases"]}
    if not kept:
        return data
    order = [case.name for case in CASES]
    cases = {**kept, **data["cases"]}
    known = {name: cases[name] for name in order if name in cases}
    return {**data, "command": stored["command"], "cases": known}


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status."""
    options = _options(arguments)
    cases = selected(options.only)
    if options.list:
        print("\n".join(f"{case.name:24} {case.title}" for case in cases))
        return 0
    flags = [*(["--only", *options.only] if options.only else []), *["--quick"] * options.quick]
    homes = {"ours": options.python, "peers": options.peers, "pufferlib": options.pufferlib}
    pythons = {home: python for home, python in homes.items() if python}
    data: report.Record = {
        "command": " ".join(["python benchmarks/bench.py", *flags]),
        "machine": report.machine(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(pythons),
        "cases": {},
    }
    # Before anything is measured, as whatever is wrong with it would cost the whole run.
    before = report.read(options.stored)
    if options.store:
        require_same(before, data, cases)
    _warn_if_busy(data["load"])
    start = time.monotonic()
    complete = run(cases, data, options, pythons)
    print(f"\n{report.tables(data['cases'], GROUPS)}")
    print("\n".join(report.comparison(before, data)))
    print(f"{len(data['cases'])} cases in {time.monotonic() - start:.0f} s: {options.output}")
    if not complete:
        return 130
    if options.store:
        report.write(options.stored, merged(before, data))
    fell = any(change.fell for change in report.changes(before, data))
    return 1 if fell and options.fail else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--only", nargs="+", default=[], help="how the cases to run begin")
    parser.add_argument("--quick", action="store_true", help="take a fifth of the time")
    parser.add_argument("--store", action="store_true", help="keep the result for comparisons")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if a ratio fell")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has ours")
    parser.add_argument("--peers", help="interpreter that has the other libraries")
    parser.add_argument("--pufferlib", help="interpreter that has PufferLib 3.0")
    parser.add_argument("--output", type=Path, default=LATEST, help="where the result is written")
    parser.add_argument("--stored", type=Path, default=STORED, help="what it is compared with")
    options = parser.parse_args(arguments)
    if options.store and options.quick:
        parser.error("a quick result is too noisy to be stored")
    return options


if __name__ == "__main__":
    sys.exit(main())
