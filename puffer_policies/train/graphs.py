"""Kernels that are recorded once and replayed as one CUDA graph, where shapes stay the same.

A small policy's step is some fifty kernels of microseconds each, which the host can't launch as
fast as a GPU runs them. A graph launches them at once. What it records are addresses: it reads and
writes the same tensors in every replay, never returns to Python, and may not wait for the host.

`Graphed` does the book-keeping on any device; a `Capture` does what only CUDA can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, TrainingError
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train.carry import GRAPH_MODES

Thunk = Callable[[], Any]
"""A function without arguments, which works on tensors that it holds."""

WARM_UPS = 3
"""Plain calls before the trial, in which libraries choose kernels and allocate what they keep."""

SAME_SHARE = 0.99
"""Share of the numbers of an output that a replay must give again. Not all of them: sums by atomic
additions differ in their last digit from call to call, and with it one action in thousands."""

SAME_CHANGE = 0.01
"""Most of a tensor's change, by Euclidean norm, that a replay may miss."""


class Capture(Protocol):
    """Runs functions beside the default stream, and records them."""

    def run(self, function: Thunk, *, strict: bool = False) -> Any:
        """Return what the function returns; if `strict`, raise where it waits for the host."""
        ...

    def record(self, function: Thunk) -> Thunk:
        """Return a replay of the function, whose results are the same tensors every time.

        Raises:
            RuntimeError: it can't be recorded; generators work as before.
        """
        ...


class Graphed:
    """A function of nested tensors, replayed from a graph once a trial has shown that it may be.

    The first `WARM_UPS` calls are plain. In the next one the function runs twice from the same
    state, plainly and as a graph. If both agree, all later calls with inputs of the same shapes are
    replays, whose results the next call overwrites; else all are plain.

    Args:
        function: gets nested tensors and returns nested tensors. It may change tensors in place,
            but nothing else: Python code runs in the plain calls and in the trial alone. An input
            that is a number comes to it as a tensor (), so that it may differ in each call.
        capture: records.
        name: what is recorded, for messages.
        memory: gives the tensors that the function reads or changes beside its inputs. When one of
            them has been replaced by another, `refresh` has the function recorded anew.
        generators: what the function draws from.
        required: whether to raise an error, not a warning, if a replay may not be used.
        copies: whether results are copied, so that they outlive the next call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        capture: Capture,
        *,
        name: str,
        memory: Callable[[], Iterable[Tensor]],
        generators: Sequence[torch.Generator] = (),
        required: bool = False,
        copies: bool = False,
    ) -> None:
        self._function, self._capture, self._name = function, capture, name
        self._memory, self._generators, self._required = memory, generators, required
        self._copies = copies
        self._num_calls = 0
        self._inputs: Any = None
        self._replay: Thunk | None = None
        self._addresses: list[int] = []
        self._is_refused = False

    @property
    def replays(self) -> bool:
        """Whether calls are replays by now."""
        return self._replay is not None

    def __call__(self, *inputs: Any) -> Any:
        """Return the function's results."""
        if self._replay is not None and self._take(inputs):
            results = self._replay()
            return map_nested(torch.clone, results) if self._copies else results
        copies = _static(inputs, self._device())
        if self._is_refused or self._replay is not None:
            return self._function(*copies)
        self._num_calls += 1
        self._inputs = copies
        if self._num_calls <= WARM_UPS:
            return self._capture.run(self._plain)
        return self._try()

    @property
    def is_refused(self) -> bool:
        """Whether the trial has shown that calls must stay plain."""
        return self._is_refused

    def refresh(self) -> None:
        """Forget a recording that reads tensors which others have replaced."""
        if self._replay is not None and self._addresses != self._current_addresses():
            self._replay = None

    def _plain(self) -> Any:
        return self._function(*self._inputs)

    def _device(self) -> torch.device:
        return next(iter(self._memory())).device

    def _current_addresses(self) -> list[int]:
        return [each.data_ptr() for each in self._memory()]

    def _take(self, inputs: Any) -> bool:
        """Copy inputs to where the recording reads them; False if they have other shapes."""
        pairs = list(zip(leaves(self._inputs), leaves(inputs), strict=True))
        if any(
            isinstance(new, Tensor) and (new.shape != own.shape or new.dtype != own.dtype)
            for own, new in pairs
        ):
            return False
        for own, new in pairs:
            if isinstance(new, Tensor):
                own.copy_(new)
            else:
                own.fill_(new)  # no tensor of the number: that would be copied from the host
        return True

    def _try(self) -> Any:
        """Run the function plainly and as a graph, and return the results of this call."""
        memory = list(self._memory())
        before = _Snapshot(memory, self._generators)
        try:
            results = self._capture.run(self._plain, strict=True)
        except RuntimeError as error:
            before.restore()
            return self._refuse(f"it waits for the host ({_first_line(error)})", self._plain)
        results = map_nested(torch.clone, results)
        after = _Snapshot(memory, self._generators)
        before.restore()
        try:
            replay = self._capture.record(self._plain)
            replayed = replay()
        except RuntimeError as error:
            reason: str | None = f"it can't be recorded ({_first_line(error)})"
        else:
            reason = _difference(results, replayed) or after.difference(before)
        if reason is not None:
            after.restore()
            return self._refuse(reason, lambda: results)
        self._replay, self._addresses = replay, self._current_addresses()
        return results

    def _refuse(self, reason: str, otherwise: Thunk) -> Any:
        self._is_refused = True
        text = f"{self._name} runs without a CUDA graph: {reason}."
        if self._required:
            raise TrainingError(text, fix="Set train.cuda_graphs to auto, which goes on without.")
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return otherwise()


class _Snapshot:
    """Copies of tensors and of the states of generators."""

    def __init__(self, tensors: list[Tensor], generators: Sequence[torch.Generator]) -> None:
        self._tensors = tensors
        self._copies = [each.detach().clone() for each in tensors]
        self._states = [(each, each.get_state()) for each in generators]

    @torch.no_grad()
    def restore(self) -> None:
        """Bring tensors and generators back to this moment."""
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        for generator, state in self._states:
            generator.set_state(state)

    def difference(self, before: _Snapshot) -> str | None:
        """Return how the present state differs from this one, by the change since `before`."""
        for generator, state in self._states:
            if not torch.equal(generator.get_state(), state):
                return "a replay draws other random numbers"
        rows = zip(self._tensors, self._copies, before._copies, strict=True)
        for index, (actual, expected, old) in enumerate(rows):
            missed = _norm(actual.detach() - expected)
            if not missed <= SAME_CHANGE * _norm(expected - old) + 1e-6 * _norm(expected):
                return f"a replay changes tensor {index} {tuple(actual.shape)} in another way"
        return None


def _norm(numbers: Tensor) -> float:
    return float(torch.linalg.vector_norm(numbers.double()))


def _difference(expected: Any, actual: Any) -> str | None:
    """Return how the results of a replay differ from those of a plain call."""
    for index, (one, other) in enumerate(zip(leaves(expected), leaves(actual), strict=True)):
        same = torch.isclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)
        share = float(same.double().mean()) if same.numel() else 1.0
        if share < SAME_SHARE:
            return f"only {share:.0%} of its result {index} is the same in a replay"
    return None


def _static(inputs: Any, device: torch.device) -> Any:
    """Return copies of the inputs, with a tensor () for each number."""
    return map_nested(
        lambda leaf: (
            leaf.detach().clone()
            if isinstance(leaf, Tensor)
            else torch.full((), leaf, device=device)
        ),
        inputs,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


class CudaCapture:
    """Records on a stream of its own, as CUDA asks for, into a memory of its own.

    Args:
        device: the device of every tensor.
        generators: those of the caller's; torch's own one is known to every graph.
    """

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self._device = device
        index = torch.cuda.current_device() if device.index is None else device.index
        self._own, self._default = generators, torch.cuda.default_generators[index]
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, function: Thunk, *, strict: bool = False) -> Any:
        """Return what the function returns; if `strict`, raise where it waits for the host."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), _refused_waits() if strict else nullcontext():
                return function()
        finally:
            current.wait_stream(self._stream)

    def record(self, function: Thunk) -> Thunk:
        """Return a replay of the function, whose results are the same tensors every time."""
        generators = [*self._own, self._default]
        copies = [each.clone_state() for each in generators]
        graph = torch.cuda.CUDAGraph()
        for generator in self._own:
            graph.register_generator_state(generator)
        try:
            # Other threads, which watch processes or copy memory, may go on with what they do.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                results = function()
        except RuntimeError:
            # A recording that fails leaves generators in its midst, so that they would refuse to
            # draw ("Offset increment outside graph capture").
            for generator, copy in zip(generators, copies, strict=True):
                self._put_back(generator, copy)
            raise

        def replay() -> Any:
            graph.replay()
            return results

        return replay

    def _put_back(self, generator: torch.Generator, copy: torch.Generator) -> None:
        # The state as a whole: setting seed and offset would leave it in the midst of recording.
        generator.graphsafe_set_state(copy)


@contextmanager
def _refused_waits() -> Iterator[None]:
    """Raise a RuntimeError where the host would wait for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls this a prototype, once
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@dataclass(frozen=True, slots=True)
class Graphs:
    """How the graphs of a run are made."""

    capture: Capture
    generators: Sequence[torch.Generator]
    required: bool

    def of(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        memory: Callable[[], Iterable[Tensor]],
        copies: bool = False,
    ) -> Graphed:
        """Return a function that is replayed from a graph; see `Graphed`."""
        return Graphed(
            function,
            self.capture,
            name=name,
            memory=memory,
            generators=self.generators,
            required=self.required,
            copies=copies,
        )


def make_graphs(
    config: TrainConfig, device: torch.device, generators: Sequence[torch.Generator]
) -> Graphs | None:
    """Return how to make the graphs of a run, or None where kernels are launched one by one.

    Raises:
        ConfigError: graphs are asked for where there are none.
    """
    if config.cuda_graphs is False:
        return None
    reason = None
    if device.type != "cuda":
        reason = f"the policy is on {device}"
    elif config.compile and config.compile_mode in GRAPH_MODES:
        reason = f"train.compile_mode {config.compile_mode!r} replays graphs of its own"
    if reason is None:
        required = config.cuda_graphs is True
        return Graphs(CudaCapture(device, generators), generators, required=required)
    if config.cuda_graphs is True:
        raise ConfigError(
            f"train.cuda_graphs is True, but {reason}.",
            fix="Set it to auto, which uses graphs where they are of use.",
        )
    return None
