"""The one door to a gymnasium vector env: whatever fails behind it comes out as an `EnvError`.

Gymnasium lets the exceptions of an env pass as they are, without a word on which copy raised them,
and after some of them `AsyncVectorEnv.close` waits for ever for a worker that is gone.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.connection
import queue
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from puffer_policies.errors import EnvError
from puffer_policies.spaces import described
from puffer_policies.vector.traces import Trace, trace_of, trace_of_text

PATIENCE = 5.0
"""Seconds to wait for what a failed worker process still has to say, or for its end."""


class Door:
    """Steps and resets `env`. After a failure its processes are ended, and closing is quiet."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self.env = env
        self.num_steps = 0
        self._failed = False
        if hasattr(env.unwrapped, "error_queue"):
            env.unwrapped.error_queue = _Reports(env.unwrapped.error_queue)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, Any]]:
        """Reset and return observations (N, *obs) and infos.

        Raises:
            EnvError: an env failed; it says which one, and with what.
        """
        try:
            return self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._fault("reset", error) from error

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, Mapping[str, Any]]:
        """Step and return observations, rewards, terminated, truncated (N, ...) and infos.

        Raises:
            EnvError: an env failed; it says which one, in which step, and with what.
        """
        self.num_steps += 1
        try:
            return self.env.step(actions)
        except Exception as error:
            raise self._fault("step", error) from error

    def has_method(self, name: str) -> bool:
        """Whether the vector env, or each of its copies, has a method of this name."""
        bare: Any = self.env.unwrapped
        if callable(getattr(bare, name, None)):
            return True
        return hasattr(bare, "call") and all(self._call(bare, "has_wrapper_attr", name))

    def call(self, name: str) -> Any:
        """Call a method of the vector env, or of each copy, and return what it gives (each).

        Raises:
            EnvError: an env failed.
        """
        bare: Any = self.env.unwrapped
        method = getattr(bare, name, None)
        return self._call(bare, name) if method is None else self._guarded(method)

    def _call(self, bare: Any, *arguments: str) -> Any:
        return self._guarded(functools.partial(bare.call, *arguments))

    def _guarded(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:
            raise self._fault("step", error) from error

    def close(self) -> None:
        """Close the envs; after a failure, without a word on what they say to that."""
        with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
            self.env.close()

    def _fault(self, call: str, error: Exception) -> EnvError:
        self._failed = True
        bare: Any = self.env.unwrapped
        when = f" in step {self.num_steps}" if self.num_steps else " in reset()"
        if isinstance(error, EnvError):
            fault = error
        elif isinstance(error, _WorkerFailed):
            fault = _described(bare, error.index, error.text, error.trace or Trace(()), call, when)
        elif isinstance(error, EOFError | ConnectionError) and (dead := _dead(bare)):
            fault = _died(bare, dead, when)
        else:
            index, text = _culprit(error), first_line(error)
            fault = _described(bare, index, text, trace_of(error), call, when)
        _end_processes(bare)
        return fault


class _WorkerFailed(Exception):
    """What a worker process told of its env's error."""

    def __init__(self, index: int | None, text: str, trace: Trace | None = None) -> None:
        super().__init__(text)
        self.index, self.text, self.trace = index, text, trace


class _Reports:
    """Stands for the queue of errors of gymnasium's workers and raises the first that is read.

    Gymnasium would print it, raise another exception of its class without its traceback, and wait
    for ever for one that could not be pickled on its way.
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
        raise _WorkerFailed(index, first_line(value, kind), trace_of_text(trace))


def _described(
    env: Any, index: int | None, text: str, trace: Trace, call: str, when: str
) -> EnvError:
    call = "reset" if trace.resets else call
    where = ", in its reset()" if call == "reset" and "step" in when else ""
    problem = f"{_name(env, index)} failed{when}{where}: {text}."
    if trace.own is None:
        returns = {
            "step": "step(action) must return (observation, reward, terminated, truncated, info)",
            "reset": "reset(*, seed=None, options=None) must return (observation, info)",
        }
        space = described(env.single_observation_space)
        return EnvError(problem, fix=f"{returns[call]}, with an observation of {space}.")
    hint = "; vec.vectorization sync brings it under a debugger" * hasattr(env, "processes")
    return EnvError(problem, fix=f"Its own code raised that, at {trace.own}{hint}.")


def first_line(error: object, kind: type | None = None) -> str:
    """Return an error in a line, without a stop: its class (`kind` if given) and what it says."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next(filter(None, lines), "").rstrip(".:")
    name = (kind or type(error)).__name__
    return f"{name}: {said}" if said else name


def _name(env: Any, index: int | None) -> str:
    return f"One of {env.num_envs} envs" if index is None else f"Env {index} of {env.num_envs}"


def _died(env: Any, dead: dict[int, int], when: str) -> EnvError:
    index, code = next(iter(dead.items()))
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


def _dead(env: Any) -> dict[int, int]:
    """Return the exit codes of the worker processes that have ended, by the number of the env."""
    processes = {each.sentinel: each for each in getattr(env, "processes", ())}
    # The end of a pipe is seen a moment before the end of its process.
    for ended in multiprocessing.connection.wait(list(processes), timeout=PATIENCE):
        processes[ended].join(PATIENCE)
    codes = {index: each.exitcode for index, each in enumerate(processes.values())}
    return {index: code for index, code in codes.items() if code is not None}


def _culprit(error: Exception) -> int | None:
    """Return which copy of a `SyncVectorEnv` was at work when `error` arose, if one was."""
    frame = error.__traceback__
    while frame is not None:
        names, this = frame.tb_frame.f_locals, frame.tb_frame.f_locals.get("self")
        if isinstance(this, SyncVectorEnv):
            if frame.tb_next and frame.tb_next.tb_frame.f_code.co_name == "concatenate":
                return _misfit(this)
            index = names.get("i")
            return index if isinstance(index, int) else None
        frame = frame.tb_next
    return None


def _misfit(env: SyncVectorEnv) -> int | None:
    """Return the first copy whose last observation is no member of the space."""
    shown = getattr(env, "_env_obs", ())
    space = env.single_observation_space
    return next((i for i, each in enumerate(shown) if not space.contains(each)), None)


def _end_processes(env: Any) -> None:
    """End the worker processes of `env` at once: gymnasium would wait for answers first."""
    processes = getattr(env, "processes", None)
    if processes is None:
        return
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    env.closed = True
