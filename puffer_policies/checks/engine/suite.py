"""The suite: every check there is, and which of them are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from puffer_policies.checks.model import Check, Tier, by_code
from puffer_policies.checks.promises import families
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
        found = _CODE.fullmatch(check.code)
        if not found or found[1] in _families(families.CHECKS):
            raise PolicyError(
                f"A check can't be called {check.code!r}: {_families(families.CHECKS)} are the "
                "suite's own families.",
                fix="Use capital letters of your own and a number, such as 'ACME1'.",
            )
        if check.code in {each.code for each in self.checks}:
            raise PolicyError(f"There are two checks called {check.code!r}.")
        self.checks.append(check)


def all_checks(registry: Registry | None = None) -> tuple[Check, ...]:
    """Return the checks of the suite, then those of the plug-ins of `registry`."""
    registrar = CheckRegistrar(by_code(families.CHECKS).values())
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
    """Return the checks of some tiers and codes, the static ones first: they tell the cause.

    Args:
        checks: what to choose from.
        select: codes such as ``S1``, families such as ``S``, or ``"S1,R"``; all if empty. A code
            that is spelt out is taken from whatever tier it is of.
        ignore: codes and families to leave out.
        tiers: how much may be done to a policy.

    Raises:
        ConfigError: an unknown code or tier, or nothing is left.
    """
    wanted, unwanted = (_codes(each, checks) for each in (select, ignore))
    allowed = _tiers(tiers)
    spelt_out = {code for code in _split(select) if _CODE.fullmatch(code)}
    chosen = [
        check
        for check in checks
        if (not wanted or check.code in wanted)
        and check.code not in unwanted
        and (check.tier in allowed or check.code in spelt_out)
    ]
    if not chosen:
        raise ConfigError(
            f"No check is left of select={_split(select)}, ignore={_split(ignore)} and "
            f"tiers={[str(tier) for tier in allowed]}.",
            fix="A run without a check would prove nothing.",
        )
    return sorted(chosen, key=lambda check: check.tier is not Tier.STATIC)


def _families(checks: Iterable[Check]) -> list[str]:
    return sorted({check.code.rstrip("0123456789") for check in checks})


def _split(codes: str | Iterable[str]) -> list[str]:
    listed = codes.split(",") if isinstance(codes, str) else codes
    return [code.strip() for code in listed if code.strip()]


def _codes(asked: str | Iterable[str], checks: Sequence[Check]) -> set[str]:
    """Return the codes that `asked` means; a family stands for all of its own."""
    known, found = [check.code for check in checks], set[str]()
    for code in _split(asked):
        meant = {each for each in known if code in (each, each.rstrip("0123456789"))}
        if not meant:
            families_known = _families(checks)
            hint = did_you_mean(code, [*known, *families_known])
            raise ConfigError(
                f"There is no check {code!r}.",
                fix=hint or f"The families are {', '.join(families_known)}.",
            )
        found |= meant
    return found


def _tiers(tiers: Iterable[str]) -> list[Tier]:
    known = [str(tier) for tier in Tier]
    for tier in tiers:
        if tier not in known:
            hint = did_you_mean(tier, known) or f"They are {', '.join(known)}."
            raise ConfigError(f"There is no tier {tier!r}.", fix=hint)
    return [Tier(tier) for tier in tiers]
