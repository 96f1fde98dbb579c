"""The error tree: every failure a user can cause, with what was asked, found and expected.

PolicyError
├── PolicyNotFound      no such name (near names, plug-ins that failed, block list)
├── AmbiguousName       one bare name, several packages
├── NameTaken           a second registration without ``override``
├── PolicyRemoved       a tombstone: the name existed once
├── PluginError         a package's import, manifest or hook failed
│   ├── MissingDependency   an import failed for want of another package
│   └── TrustError          code of a registry file that needs the user's consent
├── ContractError       a class or a policy breaks the contract; lists every offence
├── BuildError          wrong arguments or an impossible stack
├── IncompatibleSpace   a space that no one handles, or that this policy does not fit
├── EnvError            no such environment, or one that can't be read
├── ConfigError         a config or registry file (with file:line) or a command-line value
├── CheckpointError     a checkpoint that can't be read, or does not fit
├── ExportError         a policy that can't become a file of another runtime
└── TrainingError       a run that can't go on (a NaN, arithmetic that does not divide)
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence


class PolicyError(Exception):
    """A failure with a remedy: `problem` says what is wrong, `fix` what to do about it."""

    def __init__(self, problem: str, *, fix: str = "") -> None:
        super().__init__(problem, fix)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n{self.fix}" if self.fix else self.problem

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions rebuild from positional arguments; ours take `fix` by keyword.
        # What subclasses add travels in the attributes.
        return _rebuild, (type(self), self.problem, self.fix), dict(self.__dict__)


def _rebuild(cls: type[PolicyError], problem: str, fix: str) -> PolicyError:
    return cls(problem, fix=fix)


class PolicyNotFound(PolicyError):
    """No policy, wrapper or preset has this name."""


class AmbiguousName(PolicyError):
    """Several installed packages offer this bare name."""


class NameTaken(PolicyError):
    """The name is registered already, and `override` is off."""


class PolicyRemoved(PolicyError):
    """The name existed once; its tombstone explains why it was removed."""


class PluginError(PolicyError):
    """A plug-in package could not be imported, read or called."""

    def __init__(
        self, problem: str, *, fix: str = "", distribution: str = "", version: str = ""
    ) -> None:
        super().__init__(problem, fix=fix)
        self.distribution = distribution
        self.version = version


class MissingDependency(PluginError):
    """An optional package is not installed; the fix names the extra that brings it."""


class TrustError(PluginError):
    """Code that does not run before the user has consented: that of a stranger's registry file."""


class ContractError(PolicyError):
    """A policy does not keep the contract."""


class BuildError(PolicyError):
    """A policy could not be built from these arguments."""


class IncompatibleSpace(PolicyError):
    """An observation or action space that is not handled here."""


class EnvError(PolicyError):
    """An environment that does not exist or can't be read."""


class ConfigError(PolicyError):
    """A file or a command line with a value that can't be used."""


class CheckpointError(PolicyError):
    """A checkpoint that can't be written, read or fitted."""


class ExportError(PolicyError):
    """A policy that can't be exported to a kind of file."""


class TrainingError(PolicyError):
    """A training run that can't start or can't go on."""


class PolicyDeprecationWarning(FutureWarning):
    """A registered name that will go away; the text names its successor."""


MAX_PROBLEMS = 20
"""Problems that one error lists. A file can hold a million, of which nobody reads more."""

_LONGEST_PROBLEM = 1000
"""Characters of one problem of several."""

_LONGEST_INTEGER = 64
"""Bits of an integer that messages write out."""

_LONGEST_NAME = 100
"""A longer name is no slip of a finger, and takes minutes to compare."""


def short(value: object) -> str:
    """Return the repr of a value for a message, with its middle left out where it is long."""
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        # Python refuses to write integers of more than 4,300 digits.
        return f"an integer of {value.bit_length()} bits"
    return _Short().repr(value)


class _Short(reprlib.Repr):
    """Texts of a few lines at most, also for what can't be written."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20

    def repr_int(self, x: int, level: int) -> str:
        return short(x) if x.bit_length() > _LONGEST_INTEGER else repr(x)


def joined(problems: Sequence[str]) -> str:
    """Return problems as lines of bearable length, and the number of those that are left out."""
    left_out = len(problems) - MAX_PROBLEMS
    more = [f"... and {left_out:,} more"] if left_out > 0 else []
    return "\n".join([*map(_bearable, problems[:MAX_PROBLEMS]), *more])


def _bearable(problem: str) -> str:
    # Its end says what is wrong, its start where: a name between them may have a megabyte.
    half = _LONGEST_PROBLEM // 2
    return problem if len(problem) <= 2 * half else f"{problem[:half]} ... {problem[-half:]}"


def nearest(name: str, candidates: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return up to `limit` candidates that look like `name`, best first, ignoring case."""
    if len(name) > _LONGEST_NAME:
        return []
    # Imported here, as only mistakes need it and every command would wait for it.
    from difflib import get_close_matches

    # Names differ by case more often than by letters: `default`, `lstmwrapper`.
    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(candidate.lower(), candidate)
    close = get_close_matches(name.lower(), folded, n=limit, cutoff=0.6)
    # Or the rest was left out: `LSTM` for `LSTMWrapper`. Two letters begin too many names.
    if len(name) > 2:
        close += [key for key in folded if key.startswith(name.lower()) and key not in close]
    return [folded[key] for key in close[:limit]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``Did you mean 'X' or 'Y'?`` or an empty string."""
    close = nearest(name, candidates)
    return f"Did you mean {' or '.join(repr(each) for each in close)}?" if close else ""
