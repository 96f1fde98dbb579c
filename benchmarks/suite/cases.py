"""The cases of the suite. A new case is a few lines here, and perhaps a script in `peers`."""

from __future__ import annotations

from collections.abc import Iterator

from suite.harness import Candidate, Case

GROUPS = {
    "act": "Acting",
    "sample": "Sampling",
    "update": "The update alone",
    "train": "Training end to end",
    "env": "Environments on the device",
    "solve": "Time to solve a task",
    "memory": "Memories, forward and backward",
    "start": "Starting",
    "grow": "How cost grows",
}
"""The first part of a case's name, and the title of its table."""

OURS, FLOOR, SINGLE = "puffer_policies", "floor", "single file"
SB3, CONTRIB, TORCHRL, PUFFERLIB = "stable-baselines3", "sb3-contrib", "TorchRL", "PufferLib 3.0"
PLAIN, TORCH = "ours, called outside a rollout", "ours with torch.distributions"
COMPILED, GYMNASIUM = "compiled", "gymnasium in NumPy"

ACT_GOAL = 0.87
"""At most 1.15 times the time of the floor."""

TRAIN_GOAL = 0.9
SOLVE_GOAL = 2.0


def _act(rows: int, kind: str, *, name: str = "act") -> Case:
    """One act of `Default` or `LSTMWrapper(Default)`: Box(8), hidden size 128, 4 options."""
    policy = {"mlp": "`Default`", "lstm": "`LSTMWrapper(Default)`"}[kind]
    args = (kind, str(rows))
    theirs = SB3 if kind == "mlp" else CONTRIB
    return Case(
        f"{name}/{kind}/{rows}",
        f"act of {policy}, {rows:,} row{'s' * (rows > 1)}",
        (
            Candidate(OURS, "act.py", ("ours", *args)),
            Candidate(FLOOR, "act.py", ("floor", *args)),
            Candidate(PLAIN, "act.py", ("plain", *args)),
            Candidate(TORCH, "act.py", ("torch", *args)),
            Candidate(theirs, "act.py", ("sb3", *args), "peers"),
        ),
        goals={FLOOR: ACT_GOAL} if name == "act" else {},
        turn=0.05,
        rounds=(9, 31),
        seconds=4.0,
    )


def _sample(rows: int) -> Case:
    args = (str(rows),)
    return Case(
        f"sample/{rows}",
        f"action, log-probability and entropy of 18 options, {rows:,} rows",
        (
            Candidate(OURS, "sample.py", ("ours", *args)),
            Candidate(FLOOR, "sample.py", ("floor", *args)),
            Candidate("torch.distributions", "sample.py", ("torch", *args)),
        ),
        turn=0.05,
        rounds=(9, 31),
        seconds=4.0,
    )


def _update() -> Iterator[Case]:
    """All gradient steps of an update on envs of random numbers: 16 steps of a quarter each."""
    for name, envs, rows, seconds in (("mlp", 16, 256, 5.0), ("mlp-large", 64, 1024, 6.0)):
        args = (str(envs), "--env=Noise-v0")
        yield Case(
            f"update/{name}",
            f"16 gradient steps of `Default`, {rows:,} rows each",
            (
                Candidate(OURS, "update_ours.py", args),
                Candidate(FLOOR, "update_floor.py", args),
                Candidate(SB3, "update_sb3.py", args, "peers"),
            ),
            seconds=seconds,
        )
    args = ("lstm", "256", "--env=Noise-v0")
    yield Case(
        "update/lstm",
        "16 gradient steps of `LSTMWrapper(Default)`, 64 x 64 rows each, 1 % of them resets",
        (
            Candidate(OURS, "update_ours.py", args),
            Candidate("floor, no resets", "update_floor.py", args),
            Candidate(CONTRIB, "update_sb3.py", args, "peers"),
        ),
        rounds=(4, 9),
        seconds=15.0,
    )
    args = ("16", "--env=NoiseImage-v0")
    yield Case(
        "update/convolutional",
        "16 gradient steps of `Convolutional`, 256 images of 84 x 84 x 4 each",
        (
            Candidate(OURS, "update_ours.py", (*args, "--policy=Convolutional", "--hidden=512")),
            Candidate(SB3, "update_sb3.py", (*args, "--policy=CnnPolicy"), "peers"),
        ),
        rounds=(3, 5),
        seconds=20.0,
    )


def _train() -> Iterator[Case]:
    """PPO on CartPole, 64 steps a rollout: 4 epochs of 4 minibatches, hidden size 128."""
    for envs in (8, 64, 1024):
        size = (str(envs),)
        others = [
            Candidate(TORCHRL, "torchrl_ppo.py", size, "peers"),
            Candidate(PUFFERLIB, "pufferlib3.py", size, "pufferlib"),
        ]
        yield Case(
            f"train/mlp/{envs}",
            f"PPO on CartPole, `Default`, {envs:,} envs",
            (
                Candidate(OURS, "ours.py", size),
                Candidate(FLOOR, "floor.py", size),
                Candidate(SINGLE, "ppo_single_file.py", size),
                Candidate(SB3, "sb3.py", size, "peers"),
                *(others if envs == 64 else []),
            ),
            goals={FLOOR: TRAIN_GOAL},
            work=envs * 64,
            turn=0.3,
            seconds=15.0,
        )
    size = ("lstm", "64")
    yield Case(
        "train/lstm/64",
        "PPO on CartPole, `LSTMWrapper(Default)`, 64 envs",
        (
            Candidate(OURS, "ours.py", size),
            Candidate("floor, no resets", "floor.py", size),
            Candidate(CONTRIB, "sb3.py", size, "peers"),
            Candidate(f"{PUFFERLIB}, no resets", "pufferlib3.py", size, "pufferlib"),
        ),
        goals={"floor, no resets": TRAIN_GOAL},
        shortfall="resets in the rollout, and a flag beside the features in the update",
        work=64 * 64,
        turn=0.3,
        seconds=15.0,
    )
    size = ("4096",)
    yield Case(
        "train/device/4096",
        "PPO on `TorchCartPole`, whose steps are tensors, 4,096 envs",
        (
            Candidate(OURS, "ours.py", (*size, "--env=puffer_policies/TorchCartPole-v0")),
            Candidate("ours, on gymnasium's CartPole", "ours.py", size),
            Candidate("floor, on gymnasium's CartPole", "floor.py", size),
        ),
        work=4096 * 64,
        rounds=(3, 5),
        seconds=25.0,
    )
    size = ("64", "--env=MinAtar/Breakout-v1")
    yield Case(
        "train/minatar/64",
        "PPO on MinAtar's Breakout, `Default`, 64 envs",
        (Candidate(OURS, "ours.py", size), Candidate(SB3, "sb3.py", size, "peers")),
        work=64 * 64,
        rounds=(5, 15),
        seconds=10.0,
    )


def _envs() -> Iterator[Case]:
    """Steps of CartPole alone, in tensors and in NumPy, on the CPU."""
    for envs in (64, 1024, 4096):
        size = str(envs)
        yield Case(
            f"env/cartpole/{envs}",
            f"A step of `TorchCartPole` on the CPU, {envs:,} envs",
            (
                Candidate(OURS, "cartpole_env.py", ("ours", size)),
                Candidate(COMPILED, "cartpole_env.py", ("ours", size, "--compiled=true")),
                Candidate(GYMNASIUM, "cartpole_env.py", ("gymnasium", size)),
            ),
            work=envs,
            seconds=3.0,
        )


def _solve() -> Case:
    return Case(
        "solve/cartpole",
        "CartPole until the last 100 episodes have a mean of 475, seeds 1 to 5",
        (
            Candidate(OURS, "solve_ours.py"),
            Candidate(f"{SB3}, settings of rl-zoo3", "solve_sb3.py", (), "peers"),
        ),
        goals={f"{SB3}, settings of rl-zoo3": SOLVE_GOAL},
        turn=0.0,
        rounds=(5, 5),
    )


MEMORIES = {
    "gru": "`GRUWrapper`",
    "rnn": "`RNNWrapper`",
    "mingru": "`MinGRUWrapper`",
    "minlstm": "`MinLSTMWrapper`",
    "rtu": "`RTUWrapper`",
    "slstm": "`SLSTMWrapper`",
    "mamba2": "`Mamba2Wrapper`",
    "gated-deltanet": "`GatedDeltaNetWrapper`",
    "mlstm": "`MLSTMWrapper`",
    "transformer-xl": "`TransformerXLWrapper`",
}
LSTM = "torch's LSTM, no resets"


def _memory() -> Iterator[Case]:
    """64 x 64 steps, 128 wide."""
    for share in (0.0, 0.01, 0.3):
        args = (f"--starts={share}",)
        yield Case(
            f"memory/lstm/{share:g}",
            f"`LSTMWrapper`, {share:.0%} of steps are resets",
            (
                Candidate(OURS, "memory.py", ("lstm", *args)),
                Candidate(LSTM, "memory.py", ("torch", *args)),
                Candidate("a loop of cells", "memory.py", ("lstm-loop", *args)),
                Candidate(CONTRIB, "memory.py", ("sb3", *args), "peers"),
                Candidate(TORCHRL, "memory.py", ("torchrl", *args), "peers"),
            ),
            rounds=(7, 15),
            seconds=6.0,
        )
    for name, title in MEMORIES.items():
        yield Case(
            f"memory/{name}",
            f"{title}, 1% of steps are resets",
            (
                Candidate(OURS, "memory.py", (name,)),
                Candidate(LSTM, "memory.py", ("torch",)),
            ),
            rounds=(5, 15),
            seconds=3.0,
        )


def _start() -> Iterator[Case]:
    """A fresh Python; the rival is what nobody can do without."""
    yield Case(
        "start/import",
        "`import puffer_policies`, which leaves torch for later",
        (
            Candidate(OURS, "start.py", ("import",)),
            Candidate("Python alone", "start.py", ("python",)),
            Candidate("import torch", "start.py", ("torch",)),
        ),
        rounds=(5, 9),
        seconds=8.0,
    )
    for packages in (0, 200, 1000):
        args = (str(packages), "--policies")
        beside = f", beside {packages:,} packages with policies" if packages else ""
        yield Case(
            f"start/list/{packages}",
            f"`puffer-policies list`{beside}",
            (
                Candidate(OURS, "start.py", ("list", *args)),
                Candidate("Python alone", "start.py", ("python", *args)),
            ),
            rounds=(5, 15),
            seconds=5.0,
        )
    for packages in (200, 1000):
        args = (str(packages), "--policies")
        yield Case(
            f"start/get_policy/{packages}",
            f"`get_policy` in a new process, beside {packages:,} packages with policies",
            (
                Candidate(OURS, "start.py", ("get_policy", *args)),
                Candidate("torch and gymnasium", "start.py", ("torch and gymnasium", *args)),
            ),
            rounds=(4, 7),
            seconds=15.0,
        )
    yield Case(
        "start/build",
        "`get_policy` again, with its static validation",
        (
            Candidate(OURS, "build.py", ("static",)),
            Candidate("without validation", "build.py", ("off",)),
        ),
        seconds=4.0,
    )


def _grow() -> Iterator[Case]:
    """What only the plots of docs/performance.md need."""
    for kind in ("mlp", "lstm"):
        for rows in (16, 256, 4096, 16384):
            yield _act(rows, kind, name="grow/act")
    for steps in (16, 64, 256, 1024):
        yield Case(
            f"grow/steps/{steps}",
            f"forward and backward of 64 rows of {steps:,} steps, 1% of them resets: `LSTMWrapper`",
            (
                Candidate(OURS, "memory.py", ("lstm", str(steps))),
                Candidate(LSTM, "memory.py", ("torch", str(steps))),
                Candidate("`GRUWrapper`", "memory.py", ("gru", str(steps))),
                Candidate("`MinGRUWrapper`", "memory.py", ("mingru", str(steps))),
            ),
            rounds=(3, 9),
            seconds=6.0,
        )
    for layers in (1, 2, 4):
        spec = f"--policy=LSTMWrapper(Default, num_layers={layers})"
        yield Case(
            f"grow/layers/{layers}",
            f"16 gradient steps of {layers} layer{'s' * (layers > 1)}, 1,024 rows each: `Default`",
            (
                Candidate(OURS, "update_ours.py", ("64", f"--policy=Default(num_layers={layers})")),
                Candidate("`LSTMWrapper(Default)`", "update_ours.py", ("64", spec)),
            ),
            rounds=(3, 9),
            seconds=6.0,
        )
    for envs in (16, 256):
        size = (str(envs),)
        yield Case(
            f"grow/envs/{envs}",
            f"PPO on CartPole, `Default`, {envs:,} envs",
            (
                Candidate(OURS, "ours.py", size),
                Candidate(FLOOR, "floor.py", size),
                Candidate(SB3, "sb3.py", size, "peers"),
            ),
            work=envs * 64,
            turn=0.3,
            rounds=(5, 11),
            seconds=8.0,
        )
    for number in (1, 2):
        yield Case(
            f"grow/processes/{number}",
            f"PPO on CartPole, `Default`, 64 envs over {number} process{'es' * (number > 1)}",
            (Candidate(OURS, "processes.py", (str(number),)),),
            work=64 * 64,
            turn=0.5,
            rounds=(5, 9),
            seconds=6.0,
        )


CASES = [
    *(_act(rows, kind) for kind in ("mlp", "lstm") for rows in (1, 64, 1024)),
    *map(_sample, (64, 1024)),
    *_update(),
    *_train(),
    *_envs(),
    _solve(),
    *_memory(),
    *_start(),
    *_grow(),
]
