"""Replays from recorded graphs: the same training as kernel by kernel, or none at all.

What only CUDA can do, to record, is done here by a stand-in that runs the function again.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
from plain_policies import Split
from torch.utils._python_dispatch import TorchDispatchMode
from training_toys import guesses, run, update, weights

from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import ConfigError, TrainingError
from puffer_policies.nn.cores.base import Core
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.train import trainer as trainer_module
from puffer_policies.train.graphs import WARM_UPS, CudaCapture, Graphed, Graphs, make_graphs
from puffer_policies.train.trainer import Trainer
from puffer_policies.vector.factory import make_vecenv

READ_BACKS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)


class NoReadBacks(TorchDispatchMode):
    """Raises where a GPU would make the host wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in READ_BACKS:
            raise RuntimeError("called a synchronizing operation")
        return function(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """Notes the operations of torch with the very tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        grad = torch.is_grad_enabled()  # a kernel may keep more for a gradient
        self.operations.append((function, args, kwargs or {}, results, grad))
        return results


class HostCapture:
    """Replays the recorded operations on the recorded tensors, as CUDA does, and no Python code."""

    def __init__(self, *, reads_on_host=False):
        self.reads_on_host = reads_on_host
        self.num_records = self.num_replays = 0

    def run(self, function, *, strict=False):
        if not strict or self.reads_on_host:
            return function()
        with NoReadBacks():
            return function()

    def record(self, function):
        self.num_records += 1
        recording, is_first = Recording(), True
        with recording:
            results = function()

        def replay():
            nonlocal is_first
            self.num_replays += 1
            if not is_first:
                for operation, args, kwargs, outputs, grad in recording.operations:
                    # Autograd has done its part: what it asked for is among the operations.
                    with torch._C._AutoDispatchBelowAutograd(), torch.set_grad_enabled(grad):
                        put(operation(*args, **kwargs), outputs)
            is_first = False  # unlike CUDA, recording has done it once
            return results

        return replay


def put(news, olds):
    """Write the results of an operation where it has written them before."""
    if isinstance(olds, torch.Tensor):
        if news.data_ptr() != olds.data_ptr():  # neither a view nor in place
            olds.copy_(news)
    elif isinstance(olds, tuple | list):
        for new, old in zip(news, olds, strict=True):
            put(new, old)


class WrongCapture(HostCapture):
    """Replays something else."""

    def record(self, function):
        replay = super().record(function)
        return lambda: map_nested(lambda leaf: leaf + 1, replay())


class UnableCapture(HostCapture):
    """Fails to record, half way through."""

    def record(self, function):
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Counting:
    """A function with memory, random numbers and a number among its inputs."""

    def __init__(self, noise=1.0):
        self.noise = noise
        self.total, self.generator = torch.zeros(2), torch.Generator().manual_seed(1)

    def __call__(self, x, extras, factor):
        noise = self.noise * torch.rand(x.shape, generator=self.generator)
        self.total += (x * factor + noise).sum(0)
        return x * factor + noise, {"sum": self.total + extras["more"]}

    def calls(self, graphed, count=8):
        """Call it with other inputs each time; return copies of all results."""
        inputs = [
            (torch.full((3, 2), t / 2), {"more": torch.ones(2)}, 0.5 * t) for t in range(count)
        ]
        return [map_nested(torch.clone, graphed(*each)) for each in inputs]


def graphed_of(function, capture, **options):
    options = {"generators": [function.generator], **options}
    return Graphed(function, capture, name="The test", memory=lambda: [function.total], **options)


def plain_calls(count=8, noise=1.0):
    function = Counting(noise)
    results = function.calls(lambda x, extras, f: function(x, extras, torch.tensor(f)), count)
    return results, function.total


def assert_equal(actual, expected):
    for one, other in zip(leaves(tuple(actual)), leaves(tuple(expected)), strict=True):
        assert torch.equal(one, other)


def test_replays_return_what_plain_calls_do():
    function, capture = Counting(), HostCapture()
    graphed = graphed_of(function, capture)
    results = function.calls(graphed)
    expected, total = plain_calls()
    assert_equal(results, expected)
    assert torch.equal(function.total, total)
    assert (capture.num_records, capture.num_replays) == (1, 8 - WARM_UPS)
    assert graphed.replays


def test_results_are_overwritten_unless_copies_are_asked_for():
    for copies in (False, True):
        function = Counting()
        graphed = graphed_of(function, HostCapture(), copies=copies)
        function.calls(graphed, WARM_UPS + 1)
        first, second = (graphed(torch.ones(3, 2), {"more": torch.ones(2)}, f) for f in (1.0, 2.0))
        assert torch.equal(first[0], second[0]) is not copies


def test_inputs_of_another_shape_are_computed_plainly():
    function, capture = Counting(), HostCapture()
    graphed = graphed_of(function, capture)
    function.calls(graphed)
    replays = capture.num_replays
    result, _ = graphed(torch.ones(1, 2), {"more": torch.ones(2)}, 1.0)
    assert result.shape == (1, 2)
    assert capture.num_replays == replays


def test_memory_that_was_replaced_is_recorded_anew():
    function, capture = Counting(), HostCapture()
    graphed = graphed_of(function, capture)
    function.calls(graphed)
    graphed.refresh()
    assert graphed.replays
    function.total = function.total.clone()
    graphed.refresh()
    assert not graphed.replays
    function.calls(graphed, 1)
    assert graphed.replays
    assert capture.num_records == 2


@pytest.mark.parametrize(
    ("capture", "reason"),
    [(WrongCapture, "is the same in a replay"), (UnableCapture, "not permitted")],
)
def test_a_replay_that_fails_its_trial_is_refused_in_one_line_and_nothing_is_lost(capture, reason):
    function = Counting()
    graphed = graphed_of(function, capture())
    with pytest.warns(RuntimeWarning, match=f"The test runs without a CUDA graph: .*{reason}"):
        results = function.calls(graphed)
    expected, total = plain_calls()
    assert_equal(results, expected)
    assert torch.equal(function.total, total)
    assert graphed.is_refused


def test_a_function_that_waits_for_the_host_is_never_recorded():
    class Waiting(Counting):
        def __call__(self, x, extras, factor):
            results = super().__call__(x, extras, factor)
            float(results[0].sum())
            return results

    function, capture = Waiting(), HostCapture()
    graphed = graphed_of(function, capture)
    with pytest.warns(RuntimeWarning, match="waits for the host"):
        results = function.calls(graphed)
    assert_equal(results, plain_calls()[0])
    assert capture.num_records == 0


def test_a_replay_that_is_required_and_refused_is_an_error():
    function = Counting()
    with pytest.raises(TrainingError, match="can't be recorded"):
        function.calls(graphed_of(function, UnableCapture(), required=True))


@pytest.mark.parametrize(
    ("noise", "reason"), [(1.0, "draws other random numbers"), (0.0, "in another way")]
)
def test_a_replay_that_changes_what_is_not_among_its_results_is_refused(noise, reason):
    class Twice(HostCapture):
        def record(self, function):
            def replay():
                results = map_nested(torch.clone, function())
                function()
                return results

            return replay

    function = Counting(noise)
    generators = [function.generator] if noise else []
    graphed = graphed_of(function, Twice(), generators=generators)
    with pytest.warns(RuntimeWarning, match=reason):
        results = function.calls(graphed, WARM_UPS + 1)
    assert_equal(results, plain_calls(WARM_UPS + 1, noise)[0])


CPU = torch.device("cpu")


def test_graphs_are_made_on_a_gpu_alone():
    assert make_graphs(TrainConfig(), CPU, []) is None
    assert make_graphs(TrainConfig(cuda_graphs=False), torch.device("cuda"), []) is None
    modes = TrainConfig(compile=True, compile_mode="reduce-overhead")
    assert make_graphs(modes, torch.device("cuda"), []) is None


@pytest.mark.parametrize(
    ("options", "device", "reason"),
    [
        ({}, "cpu", "the policy is on cpu"),
        ({"compile": True, "compile_mode": "max-autotune"}, "cuda", "graphs of its own"),
    ],
)
def test_graphs_that_are_asked_for_in_vain_are_an_error(options, device, reason):
    config = TrainConfig(cuda_graphs=True, **options)
    with pytest.raises(ConfigError, match=reason):
        make_graphs(config, torch.device(device), [])


def trainer_of(expression, options, vecenv, capture, monkeypatch):
    def graphs(config, device, generators):
        return None if capture is None else Graphs(capture, generators, required=True)

    monkeypatch.setattr(trainer_module, "make_graphs", graphs)
    torch.manual_seed(0)
    # Several updates: rates are annealed while graphs replay.
    config = TrainConfig(total_timesteps=256, **{"bptt_horizon": 16, **options})
    policy = (
        expression(vecenv)
        if callable(expression)
        else get_policy(expression, vecenv, hidden_size=32)
    )
    return Trainer(config, vecenv, policy)


MEMORIES = ("LSTM", "GRU", "RNN", "MinGRU", "GTrXL", "TransformerXL")
STEPS_ALONE = {"anneal_clip": True}
CASES = [
    ("Default", {}, guesses),
    (Split, {"clip_vloss": True, "norm_adv": False}, guesses),
    ("Default", {"prio_alpha": 0.8}, guesses),
    ("Default", {"vtrace_rho_clip": 1.0}, guesses),
    ("PopArtWrapper(Default)", {}, guesses),
    ("NormalizeObservationWrapper(Default)", {"normalize_observations": True}, guesses),
    ("PrevActionRewardWrapper(Default)", {}, guesses),
    ("ActionMaskWrapper(Default)", {}, lambda: make_vecenv("puffer_policies/MaskedRecall-v0", 4)),
    ("Default", STEPS_ALONE, guesses),
    ("Default", {"optimizer": "muon"}, guesses),
    ("Default", {"max_minibatch_size": 8}, guesses),
    *((f"{memory}Wrapper(Default)", {}, guesses) for memory in MEMORIES),
    ("SeparateCriticWrapper(LSTMWrapper(Default))", {}, guesses),
    ("LSTMWrapper(Default)", {}, lambda: make_vecenv("puffer_policies/RepeatPrevious-v0", 4)),
]


@pytest.mark.parametrize(("expression", "options", "make"), CASES)
def test_training_by_graphs_is_the_same_training(expression, options, make, monkeypatch):
    results = []
    # The mask wrapper looks for rows without a legal action on a CPU alone.
    reads = "Mask" in str(expression)
    for capture in (None, HostCapture(reads_on_host=reads)):
        trainer = trainer_of(expression, options, make(), capture, monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            logs = run(trainer)
        results.append((weights(trainer), logs["losses/total"], logs["learning_rate"]))
        trainer.close()
    (exact, loss, rate), (actual, loss_again, rate_again) = results
    # The rate is a float32 in a graph and a float64 outside.
    torch.testing.assert_close(actual, exact, atol=1e-6, rtol=1e-5)
    assert loss_again == pytest.approx(loss, abs=1e-5)
    assert rate_again == rate
    assert capture.num_replays > 4 * 16 - 2 * WARM_UPS - 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_gradient_steps_of_memories_are_replayed_by_their_number_of_starts(memory, monkeypatch):
    capture = HostCapture()
    trainer = trainer_of(f"{memory}Wrapper(Default)", {}, guesses(), capture, monkeypatch)
    run(trainer)
    # Episodes of 4 steps and a reset: 3 starts in 16 steps, or 4 with the graph for 4 of them.
    assert trainer.ppo._step_graphs.keys() == {4}
    assert capture.num_records == 2
    assert all(
        each.most_starts is None for each in trainer.policy.modules() if isinstance(each, Core)
    )


def test_gradient_steps_are_replayed_where_shapes_stay_the_same(monkeypatch):
    counts = {}
    for name, options in {"both": {}, "steps alone": STEPS_ALONE}.items():
        capture = HostCapture()
        run(trainer_of("Default", options, guesses(), capture, monkeypatch))
        counts[name] = capture.num_records
    assert counts == {"both": 2, "steps alone": 1}


def test_a_resumed_run_by_graphs_equals_an_uninterrupted_one(monkeypatch):
    def fresh():
        return trainer_of("Default", {}, guesses(), HostCapture(), monkeypatch)

    whole = fresh()
    for _ in range(3):
        update(whole)
    state, policy = whole.state_dict(), {k: v.clone() for k, v in whole.policy.state_dict().items()}
    rates = {type(group["lr"]) for group in state["optimizer"]["param_groups"]}
    assert rates == {float}
    other = fresh()
    update(other)
    other.policy.load_state_dict(policy)

    other.load_state_dict(copy.deepcopy(state))
    other.vecenv.set_state(whole.vecenv.get_state())
    for _ in range(3):
        update(whole)
        update(other)
    torch.testing.assert_close(weights(other), weights(whole), atol=1e-6, rtol=1e-5)


class FakeCuda:
    """CUDA's part of a capture, as a list of what was asked of it."""

    def __init__(self, monkeypatch, *, fails=False):
        self.events, self.fails = [], fails
        self.default = torch.Generator()
        owner = self

        class Stream:
            def __init__(self, name="side"):
                self.name = "side" if isinstance(name, torch.device) else name

            def wait_stream(self, other):
                owner.events.append(f"{self.name} waits for {other.name}")

        class Graph:
            def register_generator_state(self, generator):
                owner.events.append("register")

            def replay(self):
                owner.events.append("replay")

        @contextmanager
        def on(stream):
            owner.events.append(f"on {stream.name}")
            yield

        @contextmanager
        def recording(graph, *, stream, capture_error_mode):
            owner.events.append(f"record on {stream.name}, {capture_error_mode}")
            yield
            if owner.fails:
                raise RuntimeError("operation failed due to a previous error during capture")

        main = Stream("main")
        for name, each in {
            "current_device": lambda: 0,
            "default_generators": (self.default,),
            "Stream": Stream,
            "current_stream": lambda device: main,
            "stream": on,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: owner.events.append(f"sync {mode}"),
            "CUDAGraph": Graph,
            "graph": recording,
        }.items():
            monkeypatch.setattr(torch.cuda, name, each)


def test_cuda_runs_beside_its_default_stream_and_sees_waiting_in_the_trial(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cuda"), [])
    assert capture.run(lambda: 3) == 3
    assert cuda.events == ["side waits for main", "on side", "main waits for side"]
    cuda.events.clear()
    with pytest.raises(ValueError, match="within"):
        capture.run(lambda: int("within"), strict=True)
    strict = ["side waits for main", "on side", "sync error", "sync 0", "main waits for side"]
    assert cuda.events == strict


def test_cuda_records_on_that_stream_with_the_callers_generators(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    capture, results = CudaCapture(torch.device("cuda:0"), [torch.Generator()]), torch.ones(1)
    replay = capture.record(lambda: results)
    assert replay() is results
    assert cuda.events == ["register", "record on side, thread_local", "replay"]


def test_generators_are_as_before_after_a_recording_that_failed(monkeypatch):
    cuda, own = FakeCuda(monkeypatch, fails=True), torch.Generator().manual_seed(5)
    restored = []
    monkeypatch.setattr(
        CudaCapture, "_put_back", lambda _, generator, copy: restored.append((generator, copy))
    )
    before = own.get_state()
    with pytest.raises(RuntimeError, match="previous error"):
        CudaCapture(torch.device("cuda"), [own]).record(lambda: torch.rand(1, generator=own))
    assert [generator for generator, _ in restored] == [own, cuda.default]
    assert torch.equal(restored[0][1].get_state(), before)
