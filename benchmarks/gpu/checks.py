"""Checks: a device gives what the CPU gives, and its fast roads give what its plain ones do.

Each raises an AssertionError where something differs, `Skipped` where it has nothing to say, and
returns figures to report.
"""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpu.subjects import (
    IMAGE,
    MEMORY_POLICIES,
    POLICIES,
    VECTOR,
    Settings,
    build,
    inputs,
    parameters_of,
    tensors_of,
    to_cpu,
    trainer_of,
    update,
)
from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
from puffer_policies.config.load import load_config
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.value_heads import value_head_of
from puffer_policies.runs.display import Display
from puffer_policies.runs.run import train_from_config
from puffer_policies.train.carry import policy_calls
from puffer_policies.train.graphs import WARM_UPS, CudaCapture, Graphed

CPU = torch.device("cpu")
CARTPOLE, PENDULUM = "puffer_policies/TorchCartPole-v0", "puffer_policies/TorchPendulum-v0"
MEMORY_TASK = "puffer_policies/TorchRepeatPrevious-v0"
PLUGINS = Path(__file__).parents[2] / "plugins" / "puffer-policies-memory"


class Skipped(Exception):
    """A part that this machine can't run, with the reason."""


@contextmanager
def exact_products() -> Iterator[None]:
    """Keep TF32, which rounds to 10 bits, out of comparisons."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        torch.backends.cuda.matmul.allow_tf32 = False
        yield


def close(actual: Any, expected: Any, what: str, *, atol: float = 1e-4, rtol: float = 1e-3) -> None:
    """Compare nested tensors on the CPU."""
    torch.testing.assert_close(
        to_cpu(actual), to_cpu(expected), atol=atol, rtol=rtol, msg=lambda text: f"{what}: {text}"
    )


def results(policy: nn.Module, env: Any, device: torch.device, *, rows: int, time: int) -> Any:
    """Return what a step and a training pass of a policy give, with all gradients."""
    is_recurrent = hasattr(policy, "initial_state")
    observations, state = inputs(policy, env, rows, device=device)
    with torch.no_grad():
        logits, values = policy.forward_eval(observations, state)  # type: ignore[operator]
    step = (*tensors_of(logits), values, *(state[key] for key in sorted(state)))
    batch = (rows, time) if is_recurrent else (rows,)
    observations, state = inputs(policy, env, *batch, device=device)
    policy.zero_grad()
    logits, values = policy(observations, state)
    choice = distribution(logits)
    actions = choice.mode().detach()
    (choice.log_prob(actions).mean() + choice.entropy().mean() + values.square().mean()).backward()
    gradients = tuple(
        torch.zeros_like(each) if each.grad is None else each.grad for each in policy.parameters()
    )
    return to_cpu((step, values, gradients))


def policies(settings: Settings) -> dict[str, float]:
    """Steps, training passes and gradients of every kind of policy are those of the CPU."""
    return _parity(POLICIES, settings)


def memories(settings: Settings) -> dict[str, float]:
    """So are those of the memories, with episode starts."""
    return _parity(MEMORY_POLICIES, settings)


def plugin_memories(settings: Settings) -> dict[str, float]:
    """And those of the plug-in's memories, which need not be installed."""
    sys.path.insert(0, str(PLUGINS))
    modules = sorted(Path(PLUGINS, "puffer_policies_memory").glob("[a-z]*.py"))
    worst = {}
    with exact_products():
        for path in modules:
            module = importlib.import_module(f"puffer_policies_memory.{path.stem}")
            for name, wrapper in vars(module).items():
                if name.endswith("Wrapper") and wrapper.__module__ == module.__name__:
                    torch.manual_seed(0)
                    policy = wrapper(VECTOR, build("Default", VECTOR))
                    worst[name] = _compare(policy, VECTOR, name, settings)
    assert worst, f"{PLUGINS} has no memories"
    return worst


def _parity(subjects: dict[str, Any], settings: Settings) -> dict[str, float]:
    worst = {}
    with exact_products():
        for name, env in subjects.items():
            worst[name] = _compare(build(name, env), env, name, settings)
    return worst


def _compare(policy: nn.Module, env: Any, name: str, settings: Settings) -> float:
    """Return the largest difference between the device and the CPU."""
    sizes = {"rows": settings.size(32, 6), "time": settings.size(24, 8)}
    expected = results(policy, env, CPU, **sizes)
    actual = results(policy.to(settings.device), env, settings.device, **sizes)
    close(actual, expected, name)
    return largest_gap(actual, expected)


def largest_gap(actual: Any, expected: Any) -> float:
    """Return the largest difference of two nested tensors; logits of -inf in both have none."""
    pairs = zip(_flat(actual), _flat(expected), strict=True)
    return max(
        float(torch.nan_to_num(one - other).abs().max()) for one, other in pairs if one.numel()
    )


def _flat(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for each in tree for leaf in _flat(each)]


def resume(settings: Settings) -> dict[str, float]:
    """A run that is stopped and resumed equals one that was never stopped."""
    gaps = {}
    for name, rnn in (("torch_cartpole", None), ("torch_repeat_previous", "LSTMWrapper")):
        with tempfile.TemporaryDirectory() as folder:
            whole = _run(name, rnn, Path(folder, "whole"), settings, updates=4)
            part = _run(name, rnn, Path(folder, "part"), settings, updates=4, stop_after=2)
            again = _run(name, rnn, Path(folder, "part"), settings, updates=4, resume=part)
            one, other = (parameters_of(load_policy(each, verify=False)) for each in (whole, again))
            gaps[name] = float((one - other).abs().max())
            # Bit for bit on a CPU; a GPU may add in another order.
            most = 1e-6 if settings.is_cuda else 0.0
            assert gaps[name] <= most, f"{name}: weights differ by {gaps[name]:.1e}"
    return gaps


def _run(
    name: str,
    rnn: str | None,
    folder: Path,
    settings: Settings,
    *,
    updates: int,
    stop_after: int | None = None,
    resume: Path | None = None,
) -> Path:
    envs, steps = settings.size(64, 8), 16
    flags = [
        *("--train.total-timesteps", str(envs * steps * updates), "--vec.num-envs", str(envs)),
        *("--train.bptt-horizon", str(steps), "--train.device", str(settings.device)),
        *("--train.data-dir", str(folder), "--eval.episodes", "2", "--eval.max-steps", "20"),
        *("--policy.hidden-size", "32", "--train.minibatch-size", "auto"),
        *(() if rnn is None else ("--rnn-name", rnn)),
    ]
    config = load_config(name, flags)
    stop = {} if stop_after is None else {"stop_when": lambda logs: logs["epoch"] >= stop_after}
    return train_from_config(config, display=Display(), resume=resume, **stop).folder  # type: ignore[arg-type]


def checkpoints(settings: Settings) -> dict[str, float]:
    """A checkpoint of the device answers on the CPU as it was saved, and the other way round."""
    gaps = {}
    with tempfile.TemporaryDirectory() as folder, exact_products():
        for name in ("Default", "LSTMWrapper(Default)"):
            policy = build(name, VECTOR).to(settings.device)
            path = Path(folder, "policy.safetensors")
            save_checkpoint(path, policy, env=VECTOR)
            loaded = load_policy(path)
            assert next(loaded.parameters()).device == CPU
            expected = results(policy, VECTOR, settings.device, rows=4, time=6)
            actual = results(loaded, VECTOR, CPU, rows=4, time=6)
            close(actual, expected, name)
            gaps[name] = largest_gap(actual, expected)
    return gaps


def bfloat16(settings: Settings) -> dict[str, float]:
    """Under bfloat16 values and states stay float32, and are near those of float32."""
    gaps = {}
    for name, env in {**POLICIES, **MEMORY_POLICIES}.items():
        policy = build(name, env).to(settings.device)
        outputs = []
        for precision in ("float32", "bfloat16"):
            calls = policy_calls(policy, device=settings.device, precision=precision)
            observations, state = inputs(policy, env, 8, device=settings.device)
            dtypes = {key: each.dtype for key, each in state.items()}
            with torch.no_grad():
                _, values = calls.forward_eval(observations, state)
            assert {key: each.dtype for key, each in state.items()} == dtypes, name
            outputs.append(values)
            _require_gradients(policy, calls.forward, env, name, settings)
        exact, low = outputs
        assert low.dtype is torch.float32, name
        gaps[name] = float((low - exact).abs().max())
        # A head over bins spreads the rounding of its logits over the whole range of values.
        head = value_head_of(policy)
        extent = 0.0 if head is None else 0.1 * (head.bounds[1] - head.bounds[0])
        most = 0.05 * (1 + float(exact.abs().max())) + (extent if math.isfinite(extent) else 0.0)
        assert gaps[name] <= most, f"{name}: {gaps[name]:.3f}, at most {most:.3f}"
    return gaps


def _require_gradients(
    policy: nn.Module, call: Any, env: Any, name: str, settings: Settings
) -> None:
    """A training pass has finite gradients in float32."""
    batch = (4, 6) if hasattr(policy, "initial_state") else (8,)
    observations, state = inputs(policy, env, *batch, device=settings.device)
    policy.zero_grad()
    logits, values = call(observations, state)
    choice = distribution(logits)
    log_probs = choice.log_prob(choice.mode().detach())
    assert log_probs.dtype is torch.float32, name
    (log_probs.mean() + choice.entropy().mean() + values.square().mean()).backward()
    for each in policy.parameters():
        assert each.grad is None or bool(each.grad.isfinite().all()), name


def channels_last(settings: Settings) -> dict[str, float]:
    """Convolutions give the same in both layouts of memory."""
    with exact_products():
        policy = build("Convolutional", IMAGE).to(settings.device)
        rows = settings.size(32, 4)
        expected = results(policy, IMAGE, settings.device, rows=rows, time=1)
        other = build("Convolutional", IMAGE).to(settings.device, memory_format=torch.channels_last)
        actual = results(other, IMAGE, settings.device, rows=rows, time=1)
        close(actual, expected, "Convolutional")
    return {}


def compiled(settings: Settings) -> dict[str, float]:
    """torch.compile makes one graph of a step and of a training pass, with the same results."""
    backend = "inductor" if settings.is_cuda else "aot_eager"
    names = ("Default", "LSTMWrapper(Default)")
    with exact_products(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            policy = build(name, VECTOR).to(settings.device)
            batch = (4, 6) if hasattr(policy, "initial_state") else (8,)
            observations, state = inputs(policy, VECTOR, *batch, device=settings.device, starts=0.3)
            call = torch.compile(policy, backend=backend, fullgraph=True)
            _, expected = policy(observations, dict(state))
            _, actual = call(observations, dict(state))
            close(actual, expected, name)
            actual.square().sum().backward()
    return {}


def graphs(settings: Settings) -> dict[str, float]:
    """Training that replays CUDA graphs is the training that launches kernels one by one."""
    if not settings.is_cuda:
        raise Skipped("CUDA graphs need CUDA")
    gaps = {}
    for policy, env_id in (
        ("Default", CARTPOLE),
        ("LSTMWrapper(Default)", MEMORY_TASK),
        ("MinGRUWrapper(Default)", MEMORY_TASK),
        ("PopArtWrapper(Default)", CARTPOLE),
        ("SquashedGaussianWrapper(Default)", PENDULUM),
    ):
        weights = []
        for mode in (False, True):
            trainer = trainer_of(policy, env_id, 64, settings.device, cuda_graphs=mode)
            for _ in range(3):
                update(trainer)
            weights.append(parameters_of(trainer.policy))
            if mode:
                assert trainer.collector._act.replays, f"{policy}: acting is not replayed"
                steps = trainer.ppo._step_graphs.values()
                assert any(each.replays for each in steps), f"{policy}: updates are not replayed"
        gaps[policy] = float((weights[0] - weights[1]).abs().max())
        assert gaps[policy] < 1e-3, f"{policy}: weights differ by {gaps[policy]:.1e}"
    _require_recovery(settings)
    return gaps


def _require_recovery(settings: Settings) -> None:
    """After a recording that fails, generators draw what they would have drawn."""
    device = settings.device
    generator = torch.Generator(device).manual_seed(3)
    weight = torch.ones(2, device=device)

    def waiting(x: Tensor) -> Tensor:
        noise = torch.rand(2, device=device, generator=generator)
        return x + noise * float(weight.sum())

    class Careless(CudaCapture):
        def run(self, function: Any, *, strict: bool = False) -> Any:
            return super().run(function)

    for capture in (CudaCapture, Careless):
        generator.manual_seed(3)
        graphed = Graphed(
            waiting,
            capture(device, [generator]),
            name="A function that reads a number",
            memory=lambda: [weight],
            generators=[generator],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            actual = [graphed(weight).clone() for _ in range(WARM_UPS + 3)]
        assert graphed.is_refused
        generator.manual_seed(3)
        expected = [waiting(weight) for _ in range(WARM_UPS + 3)]
        close(tuple(actual), tuple(expected), capture.__name__)
        torch.rand(2, device=device)  # torch's own generator works as well


def host_waits(settings: Settings) -> dict[str, float]:
    """No step of a rollout in envs on the device makes the host wait for it."""
    if not settings.is_cuda:
        raise Skipped("a CPU has nothing to wait for; tests/ count what would wait")
    for policy, env_id in (("Default", CARTPOLE), ("LSTMWrapper(Default)", MEMORY_TASK)):
        for mode in (False, True):
            trainer = trainer_of(policy, env_id, 64, settings.device, cuda_graphs=mode)
            for _ in range(3):
                update(trainer)
            torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.no_grad():
                    for t in range(4):
                        trainer.collector._step(t)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return {}


CHECKS = {
    "policies": policies,
    "memories": memories,
    "plug-in memories": plugin_memories,
    "resume": resume,
    "checkpoints": checkpoints,
    "bfloat16": bfloat16,
    "channels-last": channels_last,
    "compile": compiled,
    "graphs": graphs,
    "host waits": host_waits,
}
