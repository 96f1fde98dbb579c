"""The suite: every check there is, the selection of some, and their run on targets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from puffer_policies.checks import promises
from puffer_policies.checks.engine.isolation import TIME_LIMIT, run_here, run_isolated
from puffer_policies.checks.engine.runner import EXPECTED, error_result
from puffer_policies.checks.engine.targets import Target
from puffer_policies.checks.model import (
    Check,
    ExpectedFailures,
    Result,
    Status,
    Tier,
    by_code,
)
from puffer_policies.errors import ConfigError, PolicyError, did_you_mean
from puffer_policies.registry import Registry

DEFAULT_TIERS = (Tier.STATIC, Tier.DYNAMIC)

_CODE = re.compile(r"([A-Z]+)[0-9]+")


class CheckRegistrar:
    """Takes the checks of plug-ins, in the hook ``register_checks``."""

    def __init__(self, checks: Iterable[Check]) -> None:
        self.checks = list(checks)

    def add(self, check: Check) -> None:
        """Add a check made with `puffer_policies.checks.check`.

        Raises:
            PolicyError: the code is not capital letters and a number, or of a family of the suite.
        """
        match = _CODE.fullmatch(check.code)
        if not match or match[1] in _families(promises.CHECKS):
            raise PolicyError(
                f"A check can't be called {check.code!r}: {_families(promises.CHECKS)} are the "
                "suite's own families.",
                fix="Use capital letters of your own and a number, such as 'ACME1'.",
            )
        # Results and selections name a check by its code alone, whatever package it comes from.
        if check.code in {each.code for each in self.checks}:
            raise PolicyError(f"There are two checks called {check.code!r}.")
        self.checks.append(check)


def all_checks(registry: Registry | None = None) -> tuple[Check, ...]:
    """Return the checks of the suite, then those of the plug-ins of `registry`."""
    registrar = CheckRegistrar(by_code(promises.CHECKS).values())
    if registry is not None:
        registry.hooks.register_checks(registrar)
    return tuple(registrar.checks)


def select_checks(
    checks: Sequence[Check],
    *,
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    tiers: Iterable[str] = DEFAULT_TIERS,
) -> list[Check]:
    """Return the checks of some tiers and codes, static ones first, as they show causes.

    Args:
        checks: what to choose from.
        select: codes such as ``S1``, families such as ``S``, or ``"S1,R"``; all if empty. A code
            that is written out is selected whatever its tier.
        ignore: codes and families to leave out.
        tiers: how much may be done to a policy.

    Raises:
        ConfigError: an unknown code or tier, or nothing is left.
    """
    included, excluded = (_codes(each, checks) for each in (select, ignore))
    allowed = _tiers(tiers)
    explicit = {code for code in _split(select) if _CODE.fullmatch(code)}
    selection = [
        check
        for check in checks
        if (not included or check.code in included)
        and check.code not in excluded
        and (check.tier in allowed or check.code in explicit)
    ]
    if not selection:
        raise ConfigError(
            f"No check is left of select={_split(select)}, ignore={_split(ignore)} and "
            f"tiers={[str(tier) for tier in allowed]}.",
            fix="A run without a check would prove nothing.",
        )
    # The sort is stable: within a tier the order is that of the families.
    return sorted(selection, key=lambda check: check.tier is not Tier.STATIC)


def run_suite(
    targets: Sequence[Target],
    checks: Sequence[Check],
    *,
    isolate: bool = True,
    time_limit: float = TIME_LIMIT,
    expected: ExpectedFailures = EXPECTED,
) -> Iterator[Result]:
    """Run checks on targets one after the other, and yield each result as it comes.

    A check that says the same for all spaces, or for many, runs on the first pairs of each policy
    that it applies to (`Check.most_pairs`).
    """
    run = partial(run_isolated, time_limit=time_limit) if isolate else run_here
    verdicts: Counter[tuple[str, str]] = Counter()
    for target in targets:
        # A skip settles nothing: the check may apply to the next pair of spaces.
        repeated = [
            each
            for each in checks
            if verdicts[target.name, each.code] >= each.most_pairs(is_wrapped=target.is_wrapped)
        ]
        remaining = [each for each in checks if each not in repeated]
        for result in run(target, remaining, expected=expected) if remaining else ():
            if result.status is not Status.SKIPPED:
                verdicts[target.name, result.code] += 1
            yield result
        for each in repeated:
            error = error_result(each, target.name, target.spaces, _SETTLED)
            yield replace(error, status=Status.SKIPPED)


_SETTLED = "its verdict does not depend on these spaces, and it ran on others"


def _families(checks: Iterable[Check]) -> list[str]:
    return sorted({check.code.rstrip("0123456789") for check in checks})


def _split(codes: str | Iterable[str]) -> list[str]:
    items = codes.split(",") if isinstance(codes, str) else codes
    return [code.strip() for code in items if code.strip()]


def _codes(selection: str | Iterable[str], checks: Sequence[Check]) -> set[str]:
    """Return the codes that a selection means; a family stands for all of its own."""
    existing, codes = [check.code for check in checks], set[str]()
    for item in _split(selection):
        matches = {code for code in existing if item in (code, code.rstrip("0123456789"))}
        if not matches:
            letters = _families(checks)
            hint = did_you_mean(item, [*existing, *letters])
            raise ConfigError(
                f"There is no check {item!r}.",
                fix=hint or f"The families are {', '.join(letters)}.",
            )
        codes |= matches
    return codes


def _tiers(tiers: Iterable[str]) -> list[Tier]:
    existing = [str(tier) for tier in Tier]
    for tier in tiers:
        if tier not in existing:
            hint = did_you_mean(tier, existing) or f"They are {', '.join(existing)}."
            raise ConfigError(f"There is no tier {tier!r}.", fix=hint)
    return [Tier(tier) for tier in tiers]
