"""Forward and backward of a memory with episode resets: 64 rows, 128 wide.

``python memory.py MEMORY [STEPS] [--starts=SHARE]``; MEMORY is a name of `MEMORIES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import turns
from torch import Tensor, nn

BATCH, HIDDEN = 64, 128

Run = Callable[[Tensor, Tensor], Tensor]
"""(B, T, H) features and (B, T) episode starts -> (B, T, H)."""


def of_core(path: str, **options: Any) -> Run:
    """Run a core of ours, by its import path."""
    core = make_core(path, **options)
    return lambda x, starts: core(x, core.initial_state(BATCH), starts)[0]


def of_loop(path: str) -> Run:
    """Run one step after the other, which is the obvious way to reset."""
    core = make_core(path)
    return lambda x, starts: core.step_through(x, core.initial_state(BATCH), starts)[0]


def make_core(path: str, **options: Any) -> Any:
    """Import a core, which the others have no need of, and build it."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(HIDDEN, HIDDEN, **options)


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


CORES, PLUGIN = "puffer_policies.nn.cores", "puffer_policies_memory"

MEMORIES: dict[str, Callable[[], Run]] = {
    "torch": of_torch,
    "sb3": of_sb3,
    "torchrl": of_torchrl,
    "lstm": lambda: of_core(f"{CORES}.lstm.LSTMCore"),
    "lstm-loop": lambda: of_loop(f"{CORES}.lstm.LSTMCore"),
    "gru": lambda: of_core(f"{CORES}.gru.GRUCore"),
    "rnn": lambda: of_core(f"{CORES}.rnn.RNNCore"),
    "mingru": lambda: of_core(f"{CORES}.mingru.MinGRUCore"),
    "mingru-highway": lambda: of_core(f"{CORES}.mingru.MinGRUCore", highway=True),
    "transformer-xl": lambda: of_core(f"{CORES}.transformer_xl.TransformerXLCore"),
    "minlstm": lambda: of_core(f"{PLUGIN}.minlstm.MinLSTMCore"),
    "rtu": lambda: of_core(f"{PLUGIN}.rtu.RTUCore"),
    "rtu-linear": lambda: of_core(f"{PLUGIN}.rtu.RTUCore", linear=True),
    "slstm": lambda: of_core(f"{PLUGIN}.xlstm.SLSTMCore"),
    "mlstm": lambda: of_core(f"{PLUGIN}.xlstm.MLSTMCore"),
    "mamba2": lambda: of_core(f"{PLUGIN}.mamba2.Mamba2Core"),
    "gated-deltanet": lambda: of_core(f"{PLUGIN}.gated_delta_net.GatedDeltaNetCore"),
}


def main() -> None:
    """Build a memory and take turns."""
    torch.set_num_threads(1)
    torch.manual_seed(turns.SEED)
    length = turns.number(64)
    x = torch.randn(BATCH, length, HIDDEN, requires_grad=True)
    starts = torch.rand(BATCH, length) < float(turns.option("starts", "0.01"))
    run = MEMORIES[turns.words()[0]]()

    def call(number: int) -> None:
        for _ in range(number):
            x.grad = None
            run(x, starts).sum().backward()  # type: ignore[no-untyped-call]

    turns.take_turns(call)


if __name__ == "__main__":
    main()
