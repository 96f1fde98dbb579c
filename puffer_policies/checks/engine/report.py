"""Turns a report into text for people: verdict, findings, a table, the skips, the counts."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from textwrap import TextWrapper, indent

from puffer_policies.checks.model import BAD, Finding, Level, Report, Result, Status, natural

WIDTH = 80

MOST_PLACES = 4
"""Further policies and spaces of one finding that are listed."""

LONGEST_TEXT = 600
"""Characters of each text of a finding that are shown."""
LONGEST_REASON = 160
"""Characters of the reason of a skip that are shown."""

_VERDICTS = {
    Level.ERROR: "does not work",
    Level.FAILURE: "works, but not exactly",
    Level.ADVICE: "works",
}
"""By the gravest level of a policy's findings, and without any."""
_MANY = {
    Level.ERROR: "do not work",
    Level.FAILURE: "work, but not exactly",
    Level.ADVICE: "work",
}
_MARGIN = 12
"""Columns of the names in front of the texts of a finding."""

_Key = tuple[str, str, str]
"""A policy, an observation space and an action space: the first columns of the table."""


def render(report: Report, *, width: int = WIDTH) -> str:
    """Return the report as text: whether the policies work, each finding, and what was not run."""
    findings = (details(each, report, width=width) for each in report.findings)
    skips = _grouped("Skipped", report, Status.SKIPPED, width)
    expected = _grouped("Expected failures", report, Status.EXPECTED, width)
    parts = (verdict_line(report), *findings, _table(report, width), skips, expected)
    return "\n\n".join(part for part in (*parts, counts_line(report)) if part)


def verdict_line(report: Report) -> str:
    """Return whether the policies work, and how many findings there are of each level."""
    names = list(dict.fromkeys(result.policy for result in report.results))
    ran = [result for result in report.results if result.status is not Status.SKIPPED]
    if not ran:
        return "Nothing was run, which proves nothing."
    if len(names) == 1:
        verdict = f"{names[0]} {_VERDICTS[_worst(report, names[0])]}"
    else:
        counts = Counter(_worst(report, name) for name in names)
        texts = [
            f"{number} {(_VERDICTS if number == 1 else _MANY)[level]}"
            for level in Level
            if (number := counts[level])
        ]
        verdict = f"Of {len(names)} policies {', '.join(texts)}"
    return f"{verdict}: {_numbers(report)}."


def counts_line(report: Report) -> str:
    """Return how many checks were selected, were run, and came to what."""
    counts = report.counts
    total = f"{counts.pop('selected')} selected, {counts.pop('run')} run"
    statuses = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    return f"{total}: {statuses or 'nothing'}."


def in_a_line(result: Result) -> str:
    """Return a bad result in a line: the code, then expected and found, or the error."""
    text = result.message
    if result.status is Status.FAILED:
        text = f"expected {result.expected}; found {result.actual}"
    return f"{result.code} {result.name}: {text}"


def details(finding: Finding, report: Report, *, width: int = WIDTH) -> str:
    """Return everything about one finding: what, where, the cure, and lines that show it."""
    first = finding.first
    check = report.checks.get(first.code)
    place, _, code = first.where.partition(": ")
    failed = first.status is Status.FAILED
    lines = [
        ("policy", first.policy),
        ("spaces", f"{first.observation} -> {first.action}"),
        ("promise", check.promise if check and failed else ""),
        ("expected", first.expected),
        ("found", first.actual if failed else first.message.replace(f" ({first.where})", "")),
        ("where", place),
        ("", code),
        ("fix", first.fix),
        ("why", check.why if check and failed else ""),
        *_elsewhere(finding),
    ]
    rows = [_row(name, text, width) for name, text in lines if text]
    if first.example:
        rows += ["  try it", indent(first.example, "    ")]
    return "\n".join([f"{str(finding.level).upper()}  {first.code} {first.name}", *rows])


def codes_text(codes: Iterable[str]) -> str:
    """Return codes in their order, with neighbors as a range: A1 to A3, B2."""
    texts = []
    for _, group in groupby(enumerate(natural(sorted(set(codes)))), key=_run_of):
        members = [code for _, code in group]
        texts.append(", ".join(members) if len(members) < 3 else f"{members[0]} to {members[-1]}")
    return ", ".join(texts)


# -- inside ----------------------------------------------------------------------------------------


def _worst(report: Report, policy: str) -> Level:
    results = (each for each in (*report.bad, *report.advice) if each.policy == policy)
    return min((each.level for each in results), key=list(Level).index, default=Level.ADVICE)


def _numbers(report: Report) -> str:
    levels = report.levels
    if not any(levels.values()):
        return "every promise that was checked is kept"
    words = {
        Level.ERROR: ("error", "errors"),
        Level.FAILURE: ("failure", "failures"),
        Level.ADVICE: ("piece of advice", "pieces of advice"),
    }
    return ", ".join(f"{levels[level]} {words[level][levels[level] != 1]}" for level in Level)


def _run_of(item: tuple[int, str]) -> tuple[str, int]:
    """Return what neighbors have in common: the family, and the number less the place."""
    place, code = item
    family = code.rstrip("0123456789")
    return family, int(code[len(family) :] or 0) - place


def _row(name: str, text: str, width: int) -> str:
    """Return a name and its text, whose lines break at spaces only: paths can be copied."""
    wrapper = TextWrapper(
        width,
        initial_indent=f"  {name:<{_MARGIN - 2}}",
        subsequent_indent=" " * _MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.fill(_shorten(text, LONGEST_TEXT))


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text)} characters)"


def _elsewhere(finding: Finding) -> Iterator[tuple[str, str]]:
    """Yield what else has the same cause."""
    first, *others = finding.results
    if codes := finding.codes[1:]:
        yield "so also", f"{codes_text(codes)}, which may pass once this is mended"
    places = {_place(each, first): None for each in others} | {_place(first, first): None}
    places.pop(_place(first, first))
    for number, place in enumerate(places):
        if number == MOST_PLACES:
            yield "", f"and {len(places) - MOST_PLACES} more"
            break
        yield "" if number else "also on", place


def _place(result: Result, first: Result) -> str:
    spaces = f"{result.observation} -> {result.action}"
    return spaces if result.policy == first.policy else f"{result.policy}, {spaces}"


def _table(report: Report, width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    subjects = _by_subject(report.results)
    if len(subjects) < 2:
        return ""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("policy", "observation", "action", "passed", "skipped", "broken"):
        is_number = column in ("passed", "skipped")
        table.add_column(column, overflow="fold", justify="right" if is_number else "left")
    for subject, results in subjects.items():
        table.add_row(*subject, *_numbers_of(results))
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _by_subject(results: Iterable[Result]) -> dict[_Key, list[Result]]:
    groups: dict[_Key, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.policy, result.observation, result.action].append(result)
    return groups


def _numbers_of(results: list[Result]) -> tuple[str, str, str]:
    counts = Counter(result.status for result in results)
    broken = codes_text(result.code for result in results if result.status in BAD)
    return str(counts[Status.PASSED]), str(counts[Status.SKIPPED]), broken


def _grouped(title: str, report: Report, status: Status, width: int) -> str:
    """Return a line for each reason of results of a status, with their number and codes."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in report.results:
        if result.status is status:
            reasons[_shorten(result.message, LONGEST_REASON)].append(result.code)
    lines = [
        _row(f"{len(codes):>4}x", f"{reason} ({codes_text(codes)})", width)
        for reason, codes in sorted(reasons.items())
    ]
    return "\n".join([f"{title}:", *lines]) if lines else ""
