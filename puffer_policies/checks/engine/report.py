"""Turns a report into text for people: a table, the reasons of skips, each failure, the counts."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from textwrap import indent

from puffer_policies.checks.model import BAD, Report, Result, Status, natural

WIDTH = 120

_Key = tuple[str, str, str]
"""A policy, an observation space and an action space: the first columns of the table."""


def render(report: Report, *, width: int = WIDTH) -> str:
    """Return the report as text: a table, why checks were skipped, each failure, the counts."""
    skips = _grouped("Skipped", report, Status.SKIPPED)
    expected = _grouped("Expected failures", report, Status.EXPECTED)
    parts = [_table(report, width), skips, expected, *_failures(report)]
    return "\n\n".join(part for part in (*parts, counts_line(report)) if part)


def counts_line(report: Report) -> str:
    """Return how many checks were selected, were run, and came to what."""
    counts = report.counts
    total = f"{counts.pop('selected')} selected, {counts.pop('run')} run"
    statuses = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    verdict = "" if report.counts["run"] else " Nothing was run, which proves nothing."
    return f"{total}: {statuses or 'nothing'}.{verdict}"


def in_a_line(result: Result) -> str:
    """Return a bad result in a line: the code, then expected and found, or the error."""
    text = result.message
    if result.status is Status.FAILED:
        text = f"expected {result.expected}; found {result.actual}"
    return f"{result.code} {result.name}: {text}"


def details(result: Result, report: Report) -> str:
    """Return everything about one failure: what, where, why it matters, the cure, and a snippet."""
    check = report.checks.get(result.code)
    lines = [
        ("policy", result.policy),
        ("spaces", f"{result.observation} -> {result.action}"),
        ("promise", check.promise if check else ""),
        ("expected", result.expected),
        ("found", result.actual),
        ("error", result.message if result.status is Status.ERROR else ""),
        ("why", check.why if check else ""),
        ("fix", check.fix if check else ""),
    ]
    rows = [f"{name:<9}{text}" for name, text in lines if text]
    if result.example:
        rows += ["try it", indent(result.example, "    ")]
    return f"{result.code} {result.name}: {result.status}\n{indent(chr(10).join(rows), '  ')}"


# -- inside ----------------------------------------------------------------------------------------


def _table(report: Report, width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("policy", "observation", "action", "passed", "skipped", "bad", "codes"):
        is_number = column in ("passed", "skipped", "bad")
        table.add_column(column, overflow="fold", justify="right" if is_number else "left")
    for subject, results in _by_subject(report.results).items():
        table.add_row(*subject, *_row(results))
    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _by_subject(results: Iterable[Result]) -> dict[_Key, list[Result]]:
    groups: dict[_Key, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.policy, result.observation, result.action].append(result)
    return groups


def _row(results: list[Result]) -> tuple[str, str, str, str]:
    counts = Counter(result.status for result in results)
    bad = natural([result.code for result in results if result.status in BAD])
    passed, skipped = counts[Status.PASSED], counts[Status.SKIPPED]
    return str(passed), str(skipped), str(len(bad)), ", ".join(bad)


def _grouped(title: str, report: Report, status: Status) -> str:
    """Return a line for each reason of results of a status, with their number and codes."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in report.results:
        if result.status is status:
            reasons[result.message].append(result.code)
    lines = [
        f"  {len(codes):>4}x  {reason} ({', '.join(natural(sorted(set(codes))))})"
        for reason, codes in sorted(reasons.items())
    ]
    return "\n".join([f"{title}:", *lines]) if lines else ""


def _failures(report: Report) -> Iterator[str]:
    """Yield each failure of a policy once; what ends many checks with one error is one failure."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in report.bad:
        cause = result.message if result.status is Status.ERROR else result.code
        groups[result.policy, cause].append(result)
    for first, *others in groups.values():
        yield "\n".join([details(first, report), *_elsewhere(first, others)])


def _elsewhere(first: Result, others: list[Result]) -> Iterator[str]:
    codes = {result.code for result in others} - {first.code}
    if codes:
        yield f"  so also  {', '.join(natural(sorted(codes)))}"
    for result in others:
        if result.code == first.code:
            yield f"  also on  {result.observation} -> {result.action}"
