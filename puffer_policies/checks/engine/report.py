"""Turns a report into text for people, and into JUnit XML for continuous integration."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from textwrap import indent
from xml.etree import ElementTree

from puffer_policies.checks.model import BAD, Report, Result, Status, natural

WIDTH = 120

_Subject = tuple[str, str, str]

_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def render(report: Report, *, width: int = WIDTH) -> str:
    """Return the report as text: a table, why checks were skipped, each failure, the counts."""
    parts = [_table(report, width), _skips(report), _expected(report), *_failures(report)]
    return "\n\n".join(part for part in (*parts, counts_line(report)) if part)


def counts_line(report: Report) -> str:
    """Return how many checks were selected, were run, and came to what."""
    counts = report.counts
    total = f"{counts.pop('selected')} selected, {counts.pop('run')} run"
    found = ", ".join(f"{number} {status}" for status, number in counts.items() if number)
    verdict = "" if report.counts["run"] else " Nothing was run, which proves nothing."
    return f"{total}: {found or 'nothing'}.{verdict}"


def in_a_line(result: Result) -> str:
    """Return what a bad result says: the code, and expected and found, or the error."""
    said = result.message
    if result.status is Status.FAILED:
        said = f"expected {result.expected}; found {result.found}"
    return f"{result.code} {result.name}: {said}"


def details(result: Result, report: Report) -> str:
    """Return everything about one failure: what, where, why it matters, the cure, and a snippet."""
    check = report.checks.get(result.code)
    lines = [
        ("policy", result.policy),
        ("spaces", f"{result.observation} -> {result.action}"),
        ("promise", check.promise if check else ""),
        ("expected", result.expected),
        ("found", result.found),
        ("error", result.message if result.status is Status.ERROR else ""),
        ("why", check.why if check else ""),
        ("fix", check.fix if check else ""),
    ]
    shown = [f"{name:<9}{text}" for name, text in lines if text]
    if result.example:
        shown += ["try it", indent(result.example, "    ")]
    return f"{result.code} {result.name}: {result.status}\n{indent(chr(10).join(shown), '  ')}"


def to_junit(report: Report, *, name: str = "puffer-policies check") -> str:
    """Return JUnit XML with a test case for every result."""
    counts = report.counts
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(counts["selected"]),
        failures=str(counts[str(Status.FAILED)]),
        errors=str(counts[str(Status.ERROR)]),
        skipped=str(counts[str(Status.SKIPPED)] + counts[str(Status.EXPECTED)]),
        time=f"{sum(result.seconds for result in report.results):.3f}",
    )
    suite.extend(_case(result, report) for result in report.results)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


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


def _by_subject(results: Iterable[Result]) -> dict[_Subject, list[Result]]:
    found: dict[_Subject, list[Result]] = defaultdict(list)
    for result in results:
        found[result.policy, result.observation, result.action].append(result)
    return found


def _row(results: list[Result]) -> tuple[str, str, str, str]:
    found = Counter(result.status for result in results)
    bad = natural([result.code for result in results if result.status in BAD])
    passed, skipped = found[Status.PASSED], found[Status.SKIPPED]
    return str(passed), str(skipped), str(len(bad)), ", ".join(bad)


def _skips(report: Report) -> str:
    """Say why checks were skipped: a line for each reason, with its codes and their number."""
    return _grouped("Skipped", report, Status.SKIPPED)


def _expected(report: Report) -> str:
    return _grouped("Expected failures", report, Status.EXPECTED)


def _grouped(title: str, report: Report, status: Status) -> str:
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


def _case(result: Result, report: Report) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase",
        classname=_xml(result.policy),
        name=_xml(f"{result.code}-{result.name} [{result.observation} -> {result.action}]"),
        time=f"{result.seconds:.3f}",
    )
    tag, message = _outcome(result)
    if tag:
        child = ElementTree.SubElement(case, tag, message=_xml(message))
        child.text = _xml(details(result, report)) if result.status in BAD else None
    return case


def _outcome(result: Result) -> tuple[str, str]:
    if result.status is Status.FAILED:
        return "failure", f"expected {result.expected}; found {result.found}"
    if result.status is Status.ERROR:
        return "error", result.message
    if result.status is Status.SKIPPED:
        return "skipped", result.message
    if result.status is Status.EXPECTED:
        return "skipped", f"expected failure: {result.message}"
    return "", ""


def _xml(text: str) -> str:
    """Replace what XML can't hold, such as a terminal's colour codes."""
    return _NOT_XML.sub("?", text)
