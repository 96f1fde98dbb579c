"""Build a policy in other ways, and see what a build does and hides.

The class of a subject can be built for other spaces or arguments (`rebuild`); a build can be
watched for effects on the process (`side_effects`); and a built policy can be searched for
parameters that PyTorch does not know (`unregistered`).
"""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import random
import re
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.checks.model import CheckSkipped
from puffer_policies.checks.probes.snippets import error_line
from puffer_policies.checks.probes.subject import Subject, seeded
from puffer_policies.spaces import Spaces

# -- other builds ----------------------------------------------------------------------------------


def policy_or_skip(subject: Subject) -> nn.Module:
    """Return the policy, or skip the check: B1 reports a policy that can't be built."""
    try:
        return subject.policy
    except Exception as error:
        raise CheckSkipped(f"it can't be built (B1): {error_line(error)}") from error


def constructor(subject: Subject) -> Callable[..., nn.Module] | None:
    """Return the class if it is known and takes the spaces alone, else None."""
    if subject.cls is None:
        return None
    try:
        inspect.signature(subject.cls).bind(subject.spaces)
    except (TypeError, ValueError):
        return None
    return subject.cls


def needs_constructor(subject: Subject) -> str:
    """Return why a check that builds the class in another way does not apply, or ''."""
    if subject.cls is None:
        return "its class is not known, only how to build it"
    return "" if constructor(subject) else "its class takes more than an env"


def rebuild(
    subject: Subject, *, spaces: Spaces | None = None, arguments: dict[str, Any] | None = None
) -> nn.Module:
    """Build the class for other spaces or arguments, under a fixed seed."""
    cls = constructor(subject)
    assert cls is not None, "guard the check with needs_constructor"
    env = subject.spaces if subject.env is None else subject.env
    with seeded(0):
        return cls(spaces or env, **(arguments or {}))


def needs_spaces_only(subject: Subject) -> str:
    """Return why the class can't be built for other spaces, or ''."""
    if reason := needs_constructor(subject):
        return reason
    is_env = not (subject.env is None or isinstance(subject.env, Spaces))
    return "it is built with an env, which has these spaces only" if is_env else ""


# -- effects of a build ----------------------------------------------------------------------------

FLAGS = ("enabled", "benchmark", "deterministic", "allow_tf32")
"""What programs set of cuDNN and of CUDA's products; a backend has some of them."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Setting(NamedTuple):
    """A setting of the process."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    other: Callable[[Any], Any] | None = None
    """Another value that does no harm, so that a program shows that sets what is set already."""


def _flags(backend: Any) -> Setting:
    """Return the flags of a backend of torch, which are properties of a module or an object."""

    def write(flags: dict[str, bool]) -> None:
        for name, value in flags.items():
            setattr(backend, name, value)

    return Setting(
        lambda: {name: getattr(backend, name) for name in FLAGS if hasattr(backend, name)},
        write,
        lambda flags: {name: not value for name, value in flags.items()},
    )


def _contents(
    module: types.ModuleType, name: str, other: Callable[[Any], Any] | None = None
) -> Setting:
    """Return what a list of a module holds; which list it is may change."""

    def write(contents: list[Any]) -> None:
        getattr(module, name)[:] = contents

    return Setting(lambda: list(getattr(module, name)), write, other)


SETTINGS: dict[str, Setting] = {
    "torch's default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": Setting(torch.get_default_device, torch.set_default_device),
    "whether torch records gradients": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic mode": Setting(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "torch's precision of float32 products": Setting(
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        lambda precision: "high" if precision == "highest" else "highest",
    ),
    # The other value, as the first build of a policy, before any check, may have switched it on.
    "torch's anomaly mode": Setting(
        torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, lambda is_on: not is_on
    ),
    "cuDNN's flags": _flags(torch.backends.cudnn),
    "how torch prints tensors": Setting(
        lambda: dict(vars(torch._tensor_str.PRINT_OPTS)),
        lambda options: vars(torch._tensor_str.PRINT_OPTS).update(options),
        lambda options: {**options, "precision": options["precision"] + 1},
    ),
    "how NumPy prints arrays": Setting(
        np.get_printoptions,
        lambda options: np.set_printoptions(**options),
        lambda options: {**options, "precision": options["precision"] + 1},
    ),
    "NumPy's error state": Setting(np.geterr, lambda state: np.seterr(**state)),
    "the filters of warnings": _contents(
        # Not the one that simplefilter("ignore") makes, which would change nothing here.
        warnings,
        "filters",
        lambda _: [("ignore", re.compile(""), Warning, None, 0)],
    ),
    "the level of the root logger": Setting(
        lambda: logging.root.level, logging.root.setLevel, lambda level: level + 1
    ),
    "Python's recursion limit": Setting(
        sys.getrecursionlimit, sys.setrecursionlimit, lambda limit: limit + 1
    ),
    "the path of imports": _contents(sys, "path"),
    "a handler of signals": Setting(
        lambda: {number: signal.getsignal(number) for number in SIGNALS},
        lambda handlers: [signal.signal(*each) for each in handlers.items()],
    ),
    "the environment variables": Setting(
        lambda: dict(os.environ), lambda values: _set_environ(values)
    ),
}


def side_effects(act: Callable[[], object]) -> list[str]:
    """Build or run a policy under two seeds and return what else happened, which is undone."""
    effects: list[str] = []
    generators = []
    with _watch_directory(effects), _watch_output(effects):
        # What seeds leaves the same generator behind, whatever the seed before it was.
        for seed, is_other in ((11, False), (12, True)):
            with _watch_settings(effects, is_other=is_other):
                generators.append(_generators_after(act, seed))
    for name, first in generators[0].items():
        # None is a generator of torch with another seed than ours, such as one of the time.
        if first is None or first == generators[1][name]:
            effects.append(f"it seeds the global generator of {name}")
    return effects


def _generators_after(act: Callable[[], object], seed: int) -> dict[str, Any]:
    """Act under a seed -> the state in which that leaves each global generator."""
    state = random.getstate()
    try:
        with seeded(seed):
            random.seed(seed)
            act()
            return {
                "torch": torch.get_rng_state().tolist() if torch.initial_seed() == seed else None,
                "NumPy": np.random.get_state()[1].tolist(),  # type: ignore[index]
                "Python": random.getstate(),
            }
    finally:
        random.setstate(state)


@contextmanager
def _watch_settings(effects: list[str], *, is_other: bool) -> Iterator[None]:
    """Add the settings that change to `effects`; with `is_other` they have other values first."""
    original = {name: each.read() for name, each in SETTINGS.items()}
    try:
        for name, each in SETTINGS.items():
            if is_other and each.other is not None:
                each.write(each.other(original[name]))
        before = {name: each.read() for name, each in SETTINGS.items()}
        yield
        for name, each in SETTINGS.items():
            if (now := each.read()) != before[name]:
                # Environment variables may be secret, and are many.
                is_long = isinstance(now, dict | list)
                values = "" if is_long else f" from {before[name]} to {now}"
                effect = f"it changes {name}"
                if not any(each.startswith(effect) for each in effects):
                    effects.append(effect + values)
    finally:
        for name, each in SETTINGS.items():
            if each.read() != original[name]:
                each.write(original[name])


@contextmanager
def _watch_directory(effects: list[str]) -> Iterator[None]:
    """Stand in an empty directory meanwhile, so that files made next to the caller show."""
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            yield
            if os.path.realpath(os.getcwd()) != os.path.realpath(empty):
                effects.append(f"it changes the working directory to {os.getcwd()}")
            if files := sorted(os.listdir(empty)):
                effects.append(f"it writes into the working directory: {', '.join(files)}")
        finally:
            os.chdir(home)


@contextmanager
def _watch_output(effects: list[str]) -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable()  # logs, like warnings, are for the host to filter
    try:
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            yield
    finally:
        logging.disable(disabled)
    if text := output.getvalue().strip():
        effects.append(f"it prints {text.splitlines()[0]!r}")


def _set_environ(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


# -- hidden parameters -----------------------------------------------------------------------------

# Enough for lists of dicts of partials; an object that holds a whole data set ends the search.
MAX_DEPTH = 5
MAX_OBJECTS = 20_000

FOREIGN = ("builtins", "torch", "numpy", "gymnasium", "pufferlib")
"""Packages whose objects are not searched: an env may hold what it likes."""

REGISTERED = ("_modules", "_parameters", "_buffers")
"""What nn.Module registers. Its hooks are searched like any dict."""


def unregistered(policy: nn.Module) -> list[str]:
    """Return the path of every module with tensors, and every trainable tensor, that is hidden.

    Such parts stand in lists, dicts, closures and partials, where PyTorch does not look.
    """
    known = {id(each) for each in policy.modules()}
    known |= {id(each) for each in (*policy.parameters(), *policy.buffers())}
    hidden: dict[int, str] = {}
    for prefix, module in policy.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its attributes live in C++
        for name, value in vars(module).items():
            if name not in REGISTERED:
                path = f"{prefix}.{name}" if prefix else name
                _search(value, path, known, hidden)
    return sorted(hidden.values())


def _search(root: Any, path: str, known: set[int], hidden: dict[int, str]) -> None:
    pending = [(root, path, 0)]
    visited: set[int] = set()
    while pending and len(visited) < MAX_OBJECTS:
        value, path, depth = pending.pop()
        if id(value) in visited or id(value) in known:
            continue
        visited.add(id(value))
        if isinstance(value, nn.Module | Tensor):
            if label := _label(value, path):
                hidden[id(value)] = label
        elif depth < MAX_DEPTH:
            pending += [(each, f"{path}{step}", depth + 1) for step, each in _members(value)]


def _label(value: nn.Module | Tensor, path: str) -> str:
    """Return what a report says of a hidden part, or '' where it holds nothing to train or save."""
    if isinstance(value, Tensor):
        is_parameter = value.requires_grad and value.is_leaf
        return f"{path} is a trainable tensor of shape {tuple(value.shape)}" if is_parameter else ""
    has_tensors = any(True for _ in (*value.parameters(), *value.buffers()))
    return f"{path} is a {type(value).__name__}" if has_tensors else ""


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what `value` holds, after the expression that leads there."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", each) for key, each in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", each) for i, each in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _captures(value)
    elif hasattr(value, "__dict__") and _is_of_author(value):
        yield from ((f".{name}", each) for name, each in vars(value).items())


def _captures(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables that a function closes over, and its defaults."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield f" closes over {name}", cell.cell_contents
        except ValueError:  # the variable was never assigned
            continue
    yield from ((f" default {i}", each) for i, each in enumerate(function.__defaults__ or ()))


def _is_of_author(value: Any) -> bool:
    """Whether `value` is an object of the policy's author, rather than of a library or a class."""
    module = type(value).__module__.partition(".")[0]
    return not isinstance(value, type | types.ModuleType) and module not in FOREIGN
