"""The suite: every check there is, the selection of some, and their run on targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from puffer_policies.checks import promises
from puffer_policies.checks.engine.causes import Causes
from puffer_policies.checks.engine.isolation import TIME_LIMIT, run_here, run_isolated
from puffer_policies.checks.engine.runner import EXPECTED, error_result, in_place_of, not_judged
from puffer_policies.checks.engine.targets import Target
from puffer_policies.checks.model import (
    BAD,
    Check,
    ExpectedFailures,
    Level,
    Result,
    Scope,
    Status,
    Tier,
    by_code,
)
from puffer_policies.checks.promises.passes import runs
from puffer_policies.errors import ConfigError, PolicyError, did_you_mean
from puffer_policies.registry import Registry

DEFAULT_TIERS = (Tier.STATIC, Tier.DYNAMIC)
LEVELS = tuple(Level)

_Member = TypeVar("_Member", Tier, Level)
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
    levels: Iterable[str] = LEVELS,
) -> list[Check]:
    """Return the checks of some tiers, levels and codes, those first that show causes.

    That is static ones, then whether the policy runs, then what others need.

    Args:
        checks: what to choose from.
        select: codes such as ``S1``, families such as ``S``, or ``"S1,R"``; all if empty. A code
            that is written out is selected whatever its tier.
        ignore: codes and families to leave out.
        tiers: how much may be done to a policy.
        levels: what a broken promise costs.

    Raises:
        ConfigError: an unknown code, tier or level, or nothing is left.
    """
    included, excluded = (_codes(each, checks) for each in (select, ignore))
    allowed, grave = _members(Tier, tiers), _members(Level, levels)
    explicit = {code for code in _split(select) if _CODE.fullmatch(code)}
    selection = [
        check
        for check in checks
        if (not included or check.code in included)
        and check.code not in excluded
        and check.level in grave
        and (check.tier in allowed or check.code in explicit)
    ]
    if not selection:
        raise ConfigError(
            f"No check is left of select={_split(select)}, ignore={_split(ignore)}, "
            f"tiers={list(map(str, allowed))} and levels={list(map(str, grave))}.",
            fix="A run without a check would prove nothing.",
        )
    return _causes_first(selection)


def _causes_first(selection: Sequence[Check]) -> list[Check]:
    """Return checks in the order of the families, but each after those that it needs."""
    index, order = by_code(selection), dict[str, Check]()

    def add(check: Check) -> None:
        for code in check.needs:
            if code in index and code not in order:
                add(index[code])
        order.setdefault(check.code, check)

    for check in sorted(selection, key=lambda c: (c.tier is not Tier.STATIC, c.code != runs.code)):
        add(check)
    return sorted(order.values(), key=lambda check: check.tier is not Tier.STATIC)


def run_suite(
    targets: Sequence[Target],
    checks: Sequence[Check],
    *,
    isolate: bool = True,
    time_limit: float = TIME_LIMIT,
    expected: ExpectedFailures = EXPECTED,
    causes: Causes | None = None,
) -> Iterator[Result]:
    """Run checks on targets one after the other, and yield each result as it comes.

    A check that says the same for all spaces, or for many, runs on the first pairs of each policy
    that it applies to (`Check.scope`). Whether a policy runs is tried before any other dynamic
    check, selected or not. Results of one cause have one name of it.

    Args:
        targets: policies on spaces.
        checks: in the order of `select_checks`.
        isolate: run in worker processes.
        time_limit: seconds of CPU time that one check may take, if isolated.
        expected: the table of expected failures.
        causes: those of earlier runs, if results are to be held against them.
    """
    run = partial(run_isolated, time_limit=time_limit) if isolate else run_here
    verdicts = set[tuple[str, ...]]()
    scopes = {check.code: check.scope for check in checks}
    bad: set[str] = set()
    causes = Causes() if causes is None else causes
    causes.learn(checks)
    for target in targets:
        # A skip settles nothing: the check may apply to the next pair of spaces, or stack.
        settled = [each for each in checks if _is_settled(each, target, verdicts, bad)]
        remaining = [each for each in checks if each not in settled]
        trials = _with_trial(target, remaining, partial(run, expected=expected))
        for result in map(causes.named, trials) if remaining else ():
            if result.status is not Status.SKIPPED:
                scope = scopes.get(result.code, Scope.SPACES)
                key = target.name, result.code
                verdicts |= {key, (*key, target.likeness(scope))}
            if result.status in BAD:
                bad.add(target.name)
            yield result
        for each in settled:
            error = error_result(each, target.name, target.spaces, _SETTLED)
            yield replace(error, status=Status.SKIPPED, cause="")


def _with_trial(
    target: Target, checks: Sequence[Check], run: Callable[..., Iterator[Result]]
) -> Iterator[Result]:
    """Yield a result for each check, of which the dynamic ones wait for whether the policy runs.

    A trial that was not selected and fails is told as the error of the first dynamic check.
    """
    static = [check for check in checks if check.tier is Tier.STATIC]
    dynamic = {check.code: check for check in checks if check.tier is not Tier.STATIC}
    is_selected, obstacle = runs.code in dynamic, None
    for result in _run(target, static, dynamic, run):
        if result.code == runs.code:
            target.trial = None if result.status is Status.SKIPPED else result
            if is_selected:
                yield result
            elif result.status in BAD:
                obstacle = result
        elif obstacle is not None and result.code in dynamic:
            yield in_place_of(dynamic[result.code], obstacle)
            obstacle = None
        else:
            yield result


def _run(
    target: Target,
    static: Sequence[Check],
    dynamic: Mapping[str, Check],
    run: Callable[..., Iterator[Result]],
) -> Iterator[Result]:
    """Run checks, with the trial before the dynamic ones unless its result is known."""
    others = [check for code, check in dynamic.items() if code != runs.code]
    trial = target.trial
    if not dynamic or trial is None:
        yield from run(target, [*static, *([runs] if dynamic else []), *others])
    elif trial.status in BAD:
        yield from run(target, static) if static else ()
        yield trial
        yield from (not_judged(check, trial) for check in others)
    else:
        trials = [runs] if runs.code in dynamic else []
        yield from run(target, [*static, *trials, *others])


def _is_settled(
    check: Check, target: Target, verdicts: set[tuple[str, ...]], bad: set[str]
) -> bool:
    """Whether earlier targets have told all that `check` can tell of this one."""
    if target.group:
        return target.group in bad or (target.group, check.code) in verdicts
    return (target.name, check.code, target.likeness(check.scope)) in verdicts


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


def _members(kind: type[_Member], names: Iterable[str]) -> list[_Member]:
    existing = [str(member) for member in kind]
    for name in names:
        if name not in existing:
            word = kind.__name__.lower()
            hint = did_you_mean(name, existing) or f"They are {', '.join(existing)}."
            raise ConfigError(f"There is no {word} {name!r}.", fix=hint)
    return [kind(name) for name in names]
