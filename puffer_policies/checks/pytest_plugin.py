"""The pytest plug-in: the suite as tests, by one line in a test file or by ``pytest --policy``.

pytest imports this file at every start, so it imports nothing of the suite until it is asked to.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from puffer_policies.checks.engine.cases import Case

_CASES_FILE = Path(__file__).with_name("engine") / "cases.py"
ADVICE = "advice to the author of a policy: "
"""Begins the reason of a skip that is a piece of advice."""
_CASES = "puffer_policies.checks.engine.cases"
_ARGUMENT = "conformance_case"
"""The argument of the test in that file, which ``pytest --policy`` collects."""


def conformance_tests(
    distribution: str,
    *,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = ("static", "dynamic"),
    levels: Iterable[str] = ("error", "failure", "advice"),
    isolate: bool = False,
) -> Callable[[Case], None]:
    """Return a test of every policy and wrapper that an installed distribution registers.

    One line of a test file::

        test_conformance = conformance_tests("acme-policies")

    Args:
        distribution: its names are those that its own entry points register.
        select: codes such as ``"S1"``, families such as ``"S"``; all if empty.
        ignore: codes and families to leave out.
        tiers: ``static``, ``dynamic`` and ``trainability``; the first two by default.
        levels: what a broken promise costs, ``error``, ``failure`` or ``advice``; all by default.
            Advice never fails a test: it is the reason of a skip, and is listed at the end.
        isolate: run each check in a worker process. Off, so that a debugger and a coverage tool
            see the policy; on where a policy may hang or crash.

    Raises:
        PolicyError: the distribution registers no name; the text says which entry points were
            looked for.
    """
    cases = _cases().cases_of_distribution(
        distribution, select=select, ignore=ignore, tiers=tiers, levels=levels
    )

    @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases])
    def test_conformance(case: Case) -> None:
        case.assert_good(isolate=isolate)

    return test_conformance


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--policy``."""
    parser.getgroup("puffer-policies").addoption(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance suite on a policy: a name, an expression or path/to/file.py::X",
    )
    parser.getgroup("puffer-policies").addoption(
        "--every",
        type=_step,
        default=1,
        metavar="N",
        help="try each check on every Nth pair of spaces of a policy, in turn over checks and "
        "policies (default: on all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the suite where ``--policy`` is given: alone, or beside the paths that are given."""
    if not config.getoption("--policy"):
        return
    from_user = config.args if config.args_source is config.ArgsSource.ARGS else []
    config.args = list(dict.fromkeys([*from_user, str(_CASES_FILE)]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the suite's own test a case for every check of the policies of ``--policy``."""
    # A user's own tests may have an argument of this name.
    if _ARGUMENT in metafunc.fixturenames and metafunc.module.__file__ == str(_CASES_FILE):
        cases = _cases().cases_of_policies(metafunc.config.getoption("--policy"))
        metafunc.parametrize(_ARGUMENT, [pytest.param(case, id=case.id) for case in cases])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--every`` does."""
    step: int = config.getoption("--every")
    if step <= 1:
        return
    groups: dict[tuple[str, str], list[pytest.Item]] = {}
    # Sorted, as plug-ins shuffle tests, and workers of a parallel run have to agree.
    for item in sorted(items, key=lambda item: item.nodeid):
        if pair := _policy_and_check(item):
            groups.setdefault(pair, []).append(item)
    policies = sorted({policy for policy, _ in groups})
    codes = sorted({code for _, code in groups})
    left_out = set[pytest.Item]()
    for (policy, code), group in groups.items():
        turn = policies.index(policy) + codes.index(code)
        # At least one: checks of saving have no more.
        kept = range(turn % min(step, len(group)), len(group), step)
        left_out.update(item for place, item in enumerate(group) if place not in kept)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _step(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _policy_and_check(item: pytest.Item) -> tuple[str, str] | None:
    """Return what a test of the suite is about; None for any other test."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    for each in params.values():
        if type(each).__module__ == _CASES:
            return each.target.name, each.check.code
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the advice of the suite, which pytest would only count as skips."""
    reasons = [
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", ())
        if isinstance(report.longrepr, tuple)
    ]
    advice = [reason.removeprefix(ADVICE) for reason in reasons if reason.startswith(ADVICE)]
    if advice:
        terminalreporter.section("advice of puffer-policies", sep="-")
        for text in dict.fromkeys(advice):
            terminalreporter.write_line(text)


def _cases() -> Any:
    return importlib.import_module(_CASES)
