"""Forward and backward of every memory with episode resets, beside torch's LSTM without any.

``python benchmarks/bench_memory.py [--time 64 256] [--rounds R]``. One thread, 64 rows, 128 wide.
All candidates take turns in one process, and the fastest turn of each counts, because other
processes on a shared machine only ever add time. Memory that is freed does not go back to the
system: otherwise up to two fifths of a row would depend on who has to fault the pages in again.
sb3-contrib's and TorchRL's own functions run on weights of the same size where they are installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.nn.cores.base import Core
from puffer_policies.nn.cores.gru import GRUCore
from puffer_policies.nn.cores.lstm import LSTMCore
from puffer_policies.nn.cores.mingru import MinGRUCore
from puffer_policies.nn.cores.rnn import RNNCore
from puffer_policies.nn.cores.transformer_xl import TransformerXLCore
from puffer_policies_memory.gated_delta_net import GatedDeltaNetCore
from puffer_policies_memory.mamba2 import Mamba2Core
from puffer_policies_memory.minlstm import MinLSTMCore
from puffer_policies_memory.rtu import RTUCore
from puffer_policies_memory.xlstm import MLSTMCore, SLSTMCore

BATCH, HIDDEN = 64, 128
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
"""For glibc; it reads them once, at the start of a process."""

SHARES = (0.0, 0.005, 0.05, 0.3, 0.95)
"""The shares of steps that start an episode."""

Run = Callable[[Tensor, Tensor], Tensor]
"""(B, T, H) features and (B, T) episode starts -> (B, T, H)."""


def of_core(core: Core) -> Run:
    """Run a core of ours."""
    return lambda x, starts: core(x, core.initial_state(BATCH), starts)[0]


def of_loop(core: Core) -> Run:
    """Run one step after the other, which is the obvious way to reset."""
    return lambda x, starts: core.step_through(x, core.initial_state(BATCH), starts)[0]


def of_torch() -> Run:
    """Run torch's fused LSTM, which never resets, as the lower bound."""
    lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
    return lambda x, starts: lstm(x)[0]


def of_sb3() -> Run:
    """Run sb3-contrib's sequence function, which RecurrentPPO trains with."""
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    lstm = nn.LSTM(HIDDEN, HIDDEN)
    zeros = torch.zeros(1, BATCH, HIDDEN)

    def run(x: Tensor, starts: Tensor) -> Tensor:
        process = RecurrentActorCriticPolicy._process_sequence
        flat, _ = process(x.flatten(0, 1), (zeros, zeros), starts.flatten().float(), lstm)
        output: Tensor = flat
        return output

    return run


def of_torchrl() -> Run:
    """Run TorchRL's LSTMModule, which splits trajectories and pads them."""
    from tensordict import TensorDict
    from torchrl.modules import LSTMModule, set_recurrent_mode

    module = LSTMModule(
        input_size=HIDDEN, hidden_size=HIDDEN, in_key="x", out_key="y", device="cpu"
    )

    def run(x: Tensor, starts: Tensor) -> Tensor:
        shape = BATCH, x.shape[1]
        state = torch.zeros(*shape, 1, HIDDEN)
        data = {"x": x, "is_init": starts.unsqueeze(-1)}
        names = ("recurrent_state_h", "recurrent_state_c")
        with set_recurrent_mode(True):
            outputs: Any = module(TensorDict(data | dict.fromkeys(names, state), batch_size=shape))
        output: Tensor = outputs["y"]
        return output

    return run


def candidates() -> dict[str, Run]:
    """Return every candidate that can run here, by name."""
    runs = {
        "torch LSTM, no resets": of_torch(),
        "LSTM": of_core(LSTMCore(HIDDEN, HIDDEN)),
        "LSTM, step by step": of_loop(LSTMCore(HIDDEN, HIDDEN)),
        "GRU": of_core(GRUCore(HIDDEN, HIDDEN)),
        "RNN": of_core(RNNCore(HIDDEN, HIDDEN)),
        "MinGRU": of_core(MinGRUCore(HIDDEN, HIDDEN)),
        "MinGRU, highway": of_core(MinGRUCore(HIDDEN, HIDDEN, highway=True)),
        "MinLSTM": of_core(MinLSTMCore(HIDDEN, HIDDEN)),
        "RTU": of_core(RTUCore(HIDDEN, HIDDEN)),
        "RTU, linear": of_core(RTUCore(HIDDEN, HIDDEN, linear=True)),
        "sLSTM": of_core(SLSTMCore(HIDDEN, HIDDEN)),
        "mLSTM": of_core(MLSTMCore(HIDDEN, HIDDEN)),
        "Mamba-2": of_core(Mamba2Core(HIDDEN, HIDDEN)),
        "Gated DeltaNet": of_core(GatedDeltaNetCore(HIDDEN, HIDDEN)),
        "Transformer-XL": of_core(TransformerXLCore(HIDDEN, HIDDEN)),
    }
    for name, package, make in (
        ("sb3-contrib LSTM", "sb3_contrib", of_sb3),
        ("TorchRL LSTM", "torchrl", of_torchrl),
    ):
        if find_spec(package):
            runs[name] = make()
        else:
            print(f"{name}: not installed, left out")
    return runs


def seconds(run: Run, x: Tensor, starts: Tensor) -> float:
    """Return the CPU seconds of a forward and a backward pass."""
    x.grad = None
    start = time.process_time()
    run(x, starts).sum().backward()  # type: ignore[no-untyped-call]
    return time.process_time() - start


def race(length: int, rounds: int) -> None:
    """Let all candidates take turns and print milliseconds, and ratios to torch's LSTM."""
    x = torch.randn(BATCH, length, HIDDEN, requires_grad=True)
    starts = {share: torch.rand(BATCH, length) < share for share in SHARES}
    runs = candidates()
    best = {(name, share): float("inf") for name in runs for share in SHARES}
    for _ in range(rounds):
        for (name, share), before in best.items():
            best[name, share] = min(before, seconds(runs[name], x, starts[share]))
    floor = min(best["torch LSTM, no resets", share] for share in SHARES)
    print(f"\n{BATCH} x {length}, {HIDDEN} wide; ms and ratio to torch's LSTM, by share of starts")
    print(f"{'':24}" + "".join(f"{share:>16.1%}" for share in SHARES))
    for name in runs:
        times = [best[name, share] for share in SHARES]
        print(f"{name:24}" + "".join(f"{t * 1e3:>9.1f} ({t / floor:.2f})" for t in times))


def main() -> None:
    """Read the arguments and race."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not os.environ.keys() >= KEEP_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for length in options.time:
        race(length, options.rounds)


if __name__ == "__main__":
    main()
