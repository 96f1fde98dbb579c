"""Times of acting and of gradient steps in milliseconds, and of training in steps per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu.checks import CARTPOLE
from gpu.subjects import IMAGE, VECTOR, Settings, build, inputs, trainer_of, update
from puffer_policies.nn.distributions import distribution
from puffer_policies.train.carry import policy_calls
from puffer_policies.train.graphs import CudaCapture, Graphed

ROWS = (1, 64, 1_024, 16_384)


def milliseconds(call: Callable[[], Any], settings: Settings) -> float:
    """Return the median time of a call, whose work on the device is waited for."""
    wait = torch.cuda.synchronize if settings.is_cuda else lambda: None
    for _ in range(settings.size(10, 2)):
        call()
    wait()
    # As many calls in a row as take 20 ms: the host may run ahead, as it does in a rollout.
    start = time.perf_counter()
    call()
    wait()
    count = max(1, int(settings.size(20, 2) / 1e3 / max(time.perf_counter() - start, 1e-6)))
    turns = []
    for _ in range(settings.size(9, 3)):
        start = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        turns.append((time.perf_counter() - start) / count)
    return statistics.median(turns) * 1e3


def act(settings: Settings) -> dict[str, float]:
    """forward_eval, sample and log-probability; "graph" replays them."""
    figures = {}
    for name in ("Default", "LSTMWrapper(Default)"):
        policy = build(name, VECTOR).to(settings.device)
        for rows in ROWS[: settings.size(len(ROWS), 2)]:
            observations, state = inputs(policy, VECTOR, rows, device=settings.device)
            generator = torch.Generator(settings.device).manual_seed(1)

            @torch.no_grad()
            def step(
                observations: Any, state: Any, policy: Any = policy, generator: Any = generator
            ) -> Any:
                state = dict(state)
                logits, values = policy.forward_eval(observations, state)
                choice = distribution(logits)
                actions = choice.sample(generator)
                return actions, choice.log_prob(actions), values, state

            def plain(
                step: Any = step, observations: Any = observations, state: Any = state
            ) -> None:
                step(observations, state)

            figures[f"{name}, {rows:,} rows"] = milliseconds(plain, settings)
            if settings.is_cuda:
                graphed = Graphed(
                    step,
                    CudaCapture(settings.device, [generator]),
                    name="Acting",
                    memory=lambda policy=policy: list(policy.parameters()),
                    generators=[generator],
                    required=True,
                )

                def replay(
                    graphed: Any = graphed, observations: Any = observations, state: Any = state
                ) -> None:
                    graphed(observations, state)

                figures[f"{name}, {rows:,} rows, graph"] = milliseconds(replay, settings)
    return figures


def train_step(settings: Settings) -> dict[str, float]:
    """Prediction, loss, gradients and Adam: plain, in bfloat16, and channels-last."""
    cases = {
        "Default": (VECTOR, (settings.size(16_384, 64),)),
        "LSTMWrapper(Default)": (VECTOR, (settings.size(256, 4), settings.size(64, 8))),
        "MinGRUWrapper(Default)": (VECTOR, (settings.size(256, 4), settings.size(64, 8))),
        "Convolutional": (IMAGE, (settings.size(1_024, 4),)),
    }
    figures = {}
    for name, (env, batch) in cases.items():
        size = " x ".join(f"{each:,}" for each in batch)
        layouts = {"": torch.contiguous_format}
        if name == "Convolutional":
            layouts[", channels-last"] = torch.channels_last
        for layout, memory_format in layouts.items():
            for precision in ("float32", "bfloat16"):
                policy = build(name, env).to(settings.device, memory_format=memory_format)
                observations, state = inputs(
                    policy, env, *batch, device=settings.device, starts=0.01
                )
                calls = policy_calls(policy, device=settings.device, precision=precision)
                optimizer = torch.optim.Adam(policy.parameters(), fused=True)

                def step(
                    calls: Any = calls,
                    observations: Any = observations,
                    state: Any = state,
                    optimizer: Any = optimizer,
                ) -> None:
                    optimizer.zero_grad()
                    logits, values = calls.forward(observations, dict(state))
                    choice = distribution(logits)
                    log_probs = choice.log_prob(choice.mode().detach())
                    loss = log_probs.mean() - choice.entropy().mean() + values.square().mean()
                    loss.backward()
                    optimizer.step()

                figures[f"{name}, {size}{layout}, {precision}"] = milliseconds(step, settings)
    return figures


def ppo(settings: Settings) -> dict[str, float]:
    """Steps per second of PPO, 4 epochs of 4 minibatches, 16 steps a rollout."""
    envs = settings.size(4_096, 32)
    cases: dict[str, tuple[str, str, int, dict[str, Any]]] = {
        "TorchCartPole, Default": ("Default", CARTPOLE, envs, {}),
        "TorchCartPole, LSTMWrapper(Default)": ("LSTMWrapper(Default)", CARTPOLE, envs, {}),
        "CartPole of gymnasium, Default": ("Default", "CartPole-v1", settings.size(1_024, 32), {}),
    }
    if settings.is_cuda:
        cases["TorchCartPole, Default, no graphs"] = (
            *("Default", CARTPOLE, envs),
            {"cuda_graphs": False},
        )
    figures = {}
    for name, (policy, env_id, num_envs, options) in cases.items():
        trainer = trainer_of(policy, env_id, num_envs, settings.device, **options)
        for _ in range(settings.size(8, 2)):
            update(trainer)
        turns = []
        for _ in range(settings.size(9, 2)):
            start = time.perf_counter()
            update(trainer)  # reads the losses, and so waits for the device
            turns.append(time.perf_counter() - start)
        steps = trainer.plan.batch_size
        figures[f"{name}, {num_envs:,} envs"] = steps / statistics.median(turns)
        trainer.close()
    return figures


TIMINGS = {"act": act, "train step": train_step, "ppo": ppo}
