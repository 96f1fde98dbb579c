"""Results as JSON and as tables, and the comparison of two of them."""

from __future__ import annotations

import datetime
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from suite.harness import Case, Result, Times, ratio

Record = dict[str, Any]
"""A case as JSON holds it."""

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "puffer-policies",
    "stable-baselines3",
    "sb3-contrib",
    "torchrl",
    "minatar",
    "pufferlib",
)

BETWEEN_RUNS = 0.05
"""By how much a ratio may fall from one run to the next beyond the spread of the turns within each.

A new process lays its memory out anew, which no number of turns averages out. Of 19 ratios in two
runs one after the other, on two cores that were shared with eight other processes, 3 differed by
more than the spread of their turns (up to 3 points more), and none by more than that and this.
"""

MODEL = "model name"
"""The line of /proc/cpuinfo."""


def record_of(case: Case, result: Result) -> Record:
    """Return what is stored of a case."""
    ours, *rivals = (each.name for each in case.candidates)
    times = result.times
    ratios = {
        name: asdict(ratio(times[ours], times[name]))
        for name in rivals
        if ours in times and name in times
    }
    return {
        "title": case.title,
        "work": case.work,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "ours": ours,
        "candidates": {name: _summary(each) for name, each in times.items()},
        "ratios": {name: _rounded(each) for name, each in ratios.items()},
        "goals": dict(case.goals),
        "shortfall": case.shortfall,
        "missing": result.missing,
    }


def _summary(times: Times) -> Record:
    summary: Record = {
        "median": median(times.wall),
        "best": min(times.wall),
        "cpu": median(times.cpu),
    }
    for key in times.notes[0] if times.notes else ():
        summary[key] = median(float(note[key]) for note in times.notes)
    return {**_rounded(summary), "turns": len(times.wall)}


def _rounded(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Return four digits of each number, which is more than the noise leaves."""
    return {k: float(f"{v:.4g}") if math.isfinite(v) else None for k, v in numbers.items()}


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith(MODEL)]
    except OSError:
        names = []
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(names),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions(python: str) -> dict[str, str]:
    """Return the versions of the packages that an interpreter has."""
    code = (
        "import importlib.metadata as m, json\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version"
        " for d in m.distributions()}\n"
        f"print(json.dumps({{n: have[n] for n in {PACKAGES!r} if n in have}}))"
    )
    # Isolated, as otherwise the folder it is started in would count as installed.
    run = subprocess.run([python, "-Ic", code], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(run.stdout)
    return found


def read(path: Path) -> Record:
    """Return a stored result; one without cases if there is none."""
    if not path.exists():
        return {"cases": {}}
    data: Record = json.loads(path.read_text(encoding="utf-8"))
    return data


def write(path: Path, data: Record) -> None:
    """Store a result. The file is replaced at once, so that no interruption leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


@dataclass(frozen=True)
class Change:
    """A ratio that two results have."""

    case: str
    rival: str
    before: float
    after: float
    bound: float
    """The relative difference up to which nothing has to have changed."""

    @property
    def fell(self) -> bool:
        """Whether ours lost more than noise explains."""
        return self.after < self.before * (1 - self.bound)

    @property
    def rose(self) -> bool:
        """Whether ours won more than noise explains."""
        return self.after * (1 - self.bound) > self.before

    def __str__(self) -> str:
        return (
            f"{self.case} against {self.rival}: {self.before:.2f} -> {self.after:.2f} "
            f"(noise up to {self.bound:.0%})"
        )


def changes(before: Record, after: Record) -> list[Change]:
    """Compare every ratio that both results have."""
    found = []
    for name, new in after["cases"].items():
        old = before["cases"].get(name, {"ratios": {}})
        for rival in new["ratios"].keys() & old["ratios"].keys():
            first, second = old["ratios"][rival], new["ratios"][rival]
            # The spread of a single turn is unknown, so that it can't be said to have fallen.
            noises = [
                each["noise"] if each["noise"] is not None else 1.0 for each in (first, second)
            ]
            bound = min(math.hypot(*noises) + BETWEEN_RUNS, 1.0)
            found.append(Change(name, rival, first["median"], second["median"], bound))
    return sorted(found, key=lambda each: (each.case, each.rival))


HEAD = ["| case | ours | against | theirs | ours is | goal | |", "|---|---|---|---|---|---|---|"]


def tables(cases: Mapping[str, Record], groups: Mapping[str, str]) -> str:
    """Return a table of Markdown for each group of cases; `groups` has their titles in order."""
    parts = []
    ordered = sorted(cases.items(), key=lambda item: _place(item[0], groups))
    for group, members in groupby(ordered, key=lambda item: item[0].partition("/")[0]):
        if group not in groups:
            continue
        rows = [row for name, record in members for row in _rows(name, record)]
        parts.append("\n".join([f"### {groups[group]}", "", *HEAD, *rows]))
    return "\n\n".join(parts) + "\n"


def _place(name: str, groups: Mapping[str, str]) -> int:
    """Return where a case's group stands; within it the order of the file is kept."""
    group = name.partition("/")[0]
    return list(groups).index(group) if group in groups else len(groups)


def _rows(name: str, record: Record) -> Iterator[str]:
    times, work = record["candidates"], record["work"]
    ours = times.get(record["ours"])
    title, mine = record["title"], amount(ours, work) if ours else "failed"
    for rival, numbers in record["ratios"].items():
        goal = record["goals"].get(rival)
        yield (
            f"| {title} | {mine} | {rival} | {amount(times[rival], work)} "
            f"| {_times_as_fast(numbers)} | {_bound(goal)} "
            f"| {_verdict(numbers, goal, record.get('shortfall', ''))} |"
        )
        title = mine = ""
    for rival, reason in record["missing"].items():
        yield f"| {title} | {mine} | {rival} | not measured: {reason} | | | |"
        title = mine = ""
    if title and not record["ratios"]:
        yield f"| {title} | {mine} | | | | | |"


def amount(times: Record, work: int) -> str:
    """Return a time, or the steps of each second, in the unit in which it reads best."""
    seconds = times["median"]
    if work:
        speed = work / seconds
        return f"{speed / 1e6:.2f}M steps/s" if speed >= 1e6 else f"{speed / 1e3:.1f}k steps/s"
    if "steps" in times:
        return f"{seconds:.1f} s, {times['steps'] / 1e3:.0f}k steps"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _times_as_fast(numbers: Record) -> str:
    text = f"{numbers['median']:.2f}x"
    return text if numbers["noise"] is None else f"{text} ± {max(numbers['noise'], 0.005):.0%}"


def _bound(goal: float | None) -> str:
    return "" if goal is None else f"{goal:g}x"


def _verdict(numbers: Record, goal: float | None, shortfall: str) -> str:
    if goal is None:
        return ""
    # Two digits are shown, and what is shown decides.
    if round(numbers["median"], 2) >= goal:
        return "met"
    return f"**missed**: {shortfall}" if shortfall else "**missed**"


def comparison(before: Record, after: Record) -> Iterator[str]:
    """Describe what changed between two results, in lines of text."""
    found = changes(before, after)
    if not found:
        yield "There is no stored result of these cases to compare with."
        return
    if before.get("machine") != after.get("machine"):
        yield "The stored result is of another machine, whose ratios may differ for that reason."
    for word, some in (
        ("fell", [each for each in found if each.fell]),
        ("rose", [each for each in found if each.rose]),
    ):
        yield f"{len(some)} of {len(found)} ratios {word} since the stored result, beyond noise."
        yield from (f"  {each}" for each in some)
    lost = [f"{name} against {rival}" for name, rival in _lost(before, after)]
    if lost:
        yield f"Not measured this time: {', '.join(lost)}."


def _lost(before: Record, after: Record) -> Iterable[tuple[str, str]]:
    for name, new in after["cases"].items():
        for rival in before["cases"].get(name, {"ratios": {}})["ratios"]:
            if rival not in new["ratios"]:
                yield name, rival
