"""Faults of envs: every exception in a vector env becomes an `EnvError` that says where it arose.

Gymnasium lets the exceptions of an env pass as they are, without the number of the copy that raised
them, and after some of them `AsyncVectorEnv.close` waits forever for a worker that is gone. So our
calls of a vector env go through a `Door`, which names the copy, the step, the line and the cause.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.connection
import queue
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from puffer_policies.errors import EnvError, PolicyError
from puffer_policies.spaces import described
from puffer_policies.vector.limit import Limit, TimedOut, limit_of

PATIENCE = 5.0
"""Seconds to wait for the report of a failed worker process, or for its end."""
CLOSING = 10.0
"""Seconds in which envs must close, unless ``vec.timeout`` says otherwise."""

FAULTS = (Exception, SystemExit, TimedOut)
"""What code of envs raises. An env that calls ``sys.exit()`` must not end the run silently."""

Frame = tuple[str, int, str]
"""File, line and function of a frame of a traceback."""

_GYMNASIUM, _NUMPY = Path(gymnasium.__file__).parent, Path(np.__file__).parent
_STANDARD, _OURS = Path(re.__file__).parents[1], Path(__file__).parent
_CALLERS = (_GYMNASIUM / "vector", _GYMNASIUM / "wrappers", _GYMNASIUM / "core.py", _OURS)
"""Code that calls envs: a fault in there means that an env returned something wrong."""


class Door:
    """Calls a vector env. After a fault its worker processes are ended, and closing is quiet.

    Args:
        env: the vector env.
        timeout: seconds that a call may take; 0 is no limit.

    Raises:
        ConfigError: calls can't be limited here.
    """

    def __init__(self, env: Any, *, timeout: float = 0.0) -> None:
        self.env = env
        self.num_steps = 0
        self._failed = False
        self._limit = limit_of(timeout)
        self._closing = Limit(timeout or CLOSING, reason="vec.timeout" if timeout else "to close")
        bare = _bare(env)  # wrappers of vector envs pass attributes on for reading only
        if hasattr(bare, "error_queue"):
            bare.error_queue = _Reports(bare.error_queue)
        if isinstance(bare, SyncVectorEnv):
            bare.envs = _Copies(bare.envs)
        if isinstance(bare, AsyncVectorEnv):
            bare.parent_pipes = _Copies(bare.parent_pipes)

    def reset(
        self,
        *,
        seed: int | list[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Mapping[str, Any]]:
        """Reset and return observations (N, *obs) and infos.

        Raises:
            EnvError: an env failed; it says which one, and with what.
        """
        try:
            with self._limit:
                # A list is gymnasium's way to seed each copy of its Sync- and AsyncVectorEnv.
                return self.env.reset(seed=seed, options=options)  # type: ignore[no-any-return]
        except BaseException as error:
            raise self._fault("reset", error) from error

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
        """Step and return observations, rewards, terminated, truncated (N, ...) and infos.

        Raises:
            EnvError: an env failed; it says which one, in which step, and with what.
        """
        self.num_steps += 1
        try:
            with self._limit:
                return self.env.step(actions)  # type: ignore[no-any-return]
        except BaseException as error:
            raise self._fault("step", error) from error

    def has_method(self, name: str) -> bool:
        """Whether the vector env, or each of its copies, has a method of this name."""
        bare = _bare(self.env)
        if callable(getattr(bare, name, None)):
            return True
        return hasattr(bare, "call") and all(self._call(bare, "has_wrapper_attr", name))

    def call(self, name: str) -> Any:
        """Call a method of the vector env and return its result, or those of all copies.

        Raises:
            EnvError: an env failed.
        """
        bare = _bare(self.env)
        method = getattr(bare, name, None)
        # A list of the copies' results: a tuple is one result, of the env that steps all rows.
        return list(self._call(bare, name)) if method is None else self._guarded(method)

    def _call(self, bare: Any, *arguments: str) -> Any:
        return self._guarded(functools.partial(bare.call, *arguments))

    def _guarded(self, function: Callable[[], Any]) -> Any:
        try:
            with self._limit:
                return function()
        except BaseException as error:
            raise self._fault("step", error) from error

    def close(self) -> None:
        """Close the envs; after a fault, errors in closing would only hide it.

        Raises:
            EnvError: an env failed, or did not close within `CLOSING` or ``vec.timeout``.
        """
        bare = _bare(self.env)
        try:
            with self._closing:
                self.env.close()
            if not self._failed and (codes := _exit_codes_of_failures(bare)):
                raise _death_of(bare, codes, " in close()")
        except BaseException as error:
            if not (self._failed and isinstance(error, FAULTS)):
                raise self._fault("close", error) from error

    def _fault(self, call: str, error: BaseException) -> EnvError:
        """End the workers and return the error in words; an interrupt is raised again as it is."""
        self._failed = True
        bare = _bare(self.env)
        when = f" in step {self.num_steps}" if self.num_steps else " in reset()"
        when = " in close()" if call == "close" else when
        index = _index_at_work(bare, frames_of(error))
        if not isinstance(error, FAULTS):
            error.add_note(f"{_name(bare, index)} was{when}.")
            _end_processes(bare)
            raise error
        if isinstance(error, EnvError):
            fault = error  # of an env of ours, which says it better
        elif isinstance(error, TimedOut):
            fault = _hang_of(bare, index, error, when)
        elif isinstance(error, _WorkerFailed):
            fault = _fault_of(bare, error.index, error.text, error.frames, call, when)
        elif isinstance(error, EOFError | ConnectionError) and (codes := _exit_codes(bare)):
            fault = _death_of(bare, codes, when)
        else:
            fault = _fault_of(bare, index, first_line(error), frames_of(error), call, when)
        _end_processes(bare)
        return fault


@contextlib.contextmanager
def closing(vecenv: Any, failures: list[str] | None = None) -> Iterator[None]:
    """Close a vector env at the end, without hiding an error or losing a result.

    Args:
        vecenv: anything with ``close()``.
        failures: receives what fails in closing, which is also a warning.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(*FAULTS):
            vecenv.close()
        raise
    try:
        vecenv.close()
    except FAULTS as error:
        report_failure(
            str(error) if isinstance(error, PolicyError) else first_line(error), failures
        )


def report_failure(text: str, failures: list[str] | None) -> None:
    """Warn of what failed beside a result, which stays; `failures` receives it, too."""
    if failures is not None:
        failures.append(text)
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _bare(env: Any) -> Any:
    """Return a vector env without its wrappers; those that take tensors need not be gymnasium's."""
    return getattr(env, "unwrapped", env)


class _Copies(list[Any]):
    """The envs of a vector env, or the pipes to them, as a list that knows which is at work."""

    current: int | None = None
    """The item that was taken from the list last; None after the last one was done."""

    def __getitem__(self, index: Any) -> Any:
        self.current = index if isinstance(index, int) else None
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        for index, env in enumerate(super().__iter__()):
            self.current = index
            yield env
        self.current = None


class _WorkerFailed(Exception):
    """The error of an env in a worker process."""

    def __init__(self, index: int | None, text: str, frames: Sequence[Frame] = ()) -> None:
        super().__init__(text)
        self.index, self.text, self.frames = index, text, frames


class _Reports:
    """The error queue of gymnasium's workers, which raises the first error that is taken from it.

    Gymnasium would print the error, raise another one of its class without its traceback, and wait
    forever for one that could not be pickled.
    """

    def __init__(self, errors: Any) -> None:
        self._errors = errors

    def get(self) -> Any:
        """Raise the next error as a `_WorkerFailed`."""
        try:
            index, kind, value, trace = self._errors.get(timeout=PATIENCE)
        except queue.Empty:
            text = "an exception that can't be pickled, which its process printed above"
            raise _WorkerFailed(None, text) from None
        except Exception as error:
            text = f"an exception that can't be unpickled ({first_line(error)})"
            raise _WorkerFailed(None, text) from error
        raise _WorkerFailed(index, first_line(value, kind), _frames_in(trace))


def frames_of(error: BaseException) -> list[Frame]:
    """Return the frames of an error, outermost first."""
    summary = traceback.extract_tb(error.__traceback__)
    return [(frame.filename, frame.lineno or 0, frame.name) for frame in summary]


def _frames_in(text: str) -> list[Frame]:
    """Return the frames in the text of a traceback: a worker process sends nothing else."""
    lines = re.findall(r'^  File "(.+)", line (\d+), in (.+)$', text, re.MULTILINE)
    return [(file, int(line), function) for file, line, function in lines]


def place_of(frames: Sequence[Frame]) -> str | None:
    """Return ``file:line`` in the env's own code; None if its caller failed at a return value."""
    for file, line, _ in reversed(frames):
        path = Path(file)
        if _is_within(path, (_NUMPY,)) or _is_standard(path):
            continue  # the line that called the library says more
        return None if _is_within(path, _CALLERS) else f"{file}:{line}"
    return None


def _is_within(path: Path, places: tuple[Path, ...]) -> bool:
    return any(place == path or place in path.parents for place in places)


def _is_standard(path: Path) -> bool:
    return _is_within(path, (_STANDARD,)) and "site-packages" not in path.parts


def _fault_of(
    env: Any, index: int | None, text: str, frames: Sequence[Frame], call: str, when: str
) -> EnvError:
    # A vector env restarts its copies inside of its own step().
    call = "reset" if any(function == "reset" for _, _, function in frames) else call
    where = ", in its reset()" if call == "reset" and "step" in when else ""
    problem = f"{_name(env, index)} failed{when}{where}: {text}."
    place = place_of(frames)
    if place is None and call == "close":
        return EnvError(problem)
    if place is None:
        returns = {
            "step": "step(action) must return (observation, reward, terminated, truncated, info)",
            "reset": "reset(*, seed=None, options=None) must return (observation, info)",
        }
        space = described(env.single_observation_space)
        return EnvError(problem, fix=f"{returns[call]}, with an observation of {space}.")
    hint = "; vec.vectorization sync brings it under a debugger" * hasattr(env, "processes")
    return EnvError(problem, fix=f"Its own code raised that, at {place}{hint}.")


def _hang_of(env: Any, index: int | None, error: BaseException, when: str) -> EnvError:
    place = place_of(frames_of(error)[:-1])  # the last frame is the limit's
    if place is not None:
        fix = f"It was at {place}."
    elif hasattr(env, "processes"):
        fix = "With vec.vectorization sync the error also names the line."
    else:
        fix = ""
    return EnvError(f"{_name(env, index)} hangs{when}: {error}.", fix=fix)


def first_line(error: object, kind: type | None = None) -> str:
    """Return the class of an error, or `kind`, and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines()]
    message = next(filter(None, lines), "").rstrip(".:")
    name = (kind or type(error)).__name__
    return f"{name}: {message}" if message else name


def _name(env: Any, index: int | None) -> str:
    return f"One of {env.num_envs} envs" if index is None else f"Env {index} of {env.num_envs}"


def _death_of(env: Any, codes: dict[int, int], when: str) -> EnvError:
    index, code = next(iter(codes.items()))
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
        return EnvError(
            f"{_name(env, index)} died{when}: its process was ended by {name}.",
            fix="SIGKILL mostly means that memory ran out, SIGSEGV a fault in the env's C code.",
        )
    return EnvError(
        f"{_name(env, index)} died{when}: its process left with exit code {code}.",
        fix="With vec.vectorization sync the env runs in this process, where it can be debugged.",
    )


def _exit_codes(env: Any) -> dict[int, int]:
    """Return the exit codes of the worker processes that have ended, by the number of the env."""
    processes = {each.sentinel: each for each in getattr(env, "processes", ())}
    # A pipe closes a moment before its process has ended.
    for sentinel in multiprocessing.connection.wait(list(processes), timeout=PATIENCE):
        processes[sentinel].join(PATIENCE)
    codes = {index: each.exitcode for index, each in enumerate(processes.values())}
    return {index: code for index, code in codes.items() if code is not None}


def _exit_codes_of_failures(env: Any) -> dict[int, int]:
    codes = {i: each.exitcode for i, each in enumerate(getattr(env, "processes", ()))}
    return {index: code for index, code in codes.items() if code}


def _index_at_work(env: Any, frames: Sequence[Frame]) -> int | None:
    """Return which copy caused the error that just arose, if one did."""
    if any("concatenate" in function for _, _, function in frames):
        return _index_of_wrong_observation(env)
    copies = getattr(env, "envs", getattr(env, "parent_pipes", None))
    index = getattr(copies, "current", None)
    if index is None and (processes := getattr(env, "processes", None)):
        # All have answered, and some do not end.
        alive = [each.is_alive() for each in processes]
        return alive.index(True) if any(alive) and not all(alive) else None
    return index


def _index_of_wrong_observation(env: Any) -> int | None:
    """Return the first copy whose last observation alone makes no batch."""
    # Not by `contains`: an observation out of its bounds is common, and fails nowhere.
    space = env.single_observation_space
    for index, observation in enumerate(getattr(env, "_env_obs", ())):
        batch: Any = create_empty_array(space, n=1, fn=np.zeros)
        try:
            concatenate(space, [observation], batch)
        except Exception:
            return index
    return None


def _end_processes(env: Any) -> None:
    """End the worker processes of `env` at once: gymnasium would wait for answers first."""
    processes = getattr(env, "processes", None)
    if processes is None:
        return
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    env.closed = True
