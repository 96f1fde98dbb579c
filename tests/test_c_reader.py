"""The reader in C answers as PyTorch does, step by step, through resets and under masks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from specimens import ACTIONS, OBSERVATIONS, VECTOR, map_tensors, observation_batch, tensors_of

from puffer_policies import Spaces, get_policy
from puffer_policies.errors import ExportError
from puffer_policies.export.api import export_policy
from puffer_policies.export.c import export_c
from puffer_policies.export.flatfile import action_sizes, export_puffer, read_puffer
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.features import make_features

COMPILER = shutil.which("cc")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: there is no cc")

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"]
HERE = Path(__file__).parent
READER = HERE.parent / "puffer_policies" / "export"

CARTPOLE = Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
STEPS, ROWS = 200, 3


def compiled(source: Path, program: Path, *folders: Path) -> Path:
    includes = [f"-I{folder}" for folder in folders]
    subprocess.run([COMPILER, *FLAGS, *includes, source, "-o", program, "-lm"], check=True)
    return program


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "driver"
    return compiled(HERE / "puffernet_driver.c", program, READER)


def played(
    driver: Path,
    weights: Path,
    policy: Any,
    observations: torch.Tensor,
    starts: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    alignment: int = 8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return results (T, R, A + 1), likeliest actions and random ones (T, R, K) of the program."""
    net = policy.unwrapped if hasattr(policy, "unwrapped") else policy
    options = action_sizes(net.spaces.action)
    steps, rows, inputs = observations.shape
    sizes = (inputs, net.hidden_size, net.num_layers, alignment, rows, int(mask is not None), 7)
    data = bytearray()
    for t in range(steps):
        data += observations[t].numpy().astype("<f4").tobytes() + starts[t].numpy().tobytes()
        data += b"" if mask is None else mask[t].numpy().tobytes()
    command = [driver, weights, *map(str, (*sizes, *options))]
    output = subprocess.run(command, input=bytes(data), capture_output=True, check=True).stdout
    numbers = np.frombuffer(output, "<f4").reshape(steps, -1)
    width = sum(options) + 1
    ends = np.cumsum([rows * width, rows * len(options)])
    results, likeliest, random = np.split(numbers, ends, axis=1)
    shape = (steps, rows, len(options))
    return results.reshape(steps, rows, width), likeliest.reshape(shape), random.reshape(shape)


CASES = {
    "cartpole": ("PufferNet", CARTPOLE, 8),
    "masks": (
        "ActionMaskWrapper(PufferNet(hidden_size=16, num_layers=1))",
        Spaces(VECTOR, ACTIONS["multidiscrete"]),
        8,
    ),
    "numbers": ("PufferNet(hidden_size=16, num_layers=2)", Spaces(VECTOR, ACTIONS["box"]), 4),
    "pixels": (
        "PufferNet(hidden_size=24, num_layers=2)",
        Spaces(OBSERVATIONS["image_hwc"], ACTIONS["multibinary"]),
        8,
    ),
    "nested": (
        "PufferNet(hidden_size=16, num_layers=3)",
        Spaces(OBSERVATIONS["dict"], ACTIONS["box_integers"]),
        8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_c_answers_as_pytorch_does(driver: Path, tmp_path: Path, name: str) -> None:
    expression, env, alignment = CASES[name]
    torch.manual_seed(0)
    policy = get_policy(expression, env)
    with torch.no_grad():  # the first weights of an actor are small, and its answers all alike
        for each in policy.parameters():
            each.add_(0.1 * torch.randn_like(each))
    weights = export_puffer(policy, tmp_path / "w.bin", alignment=alignment, complete=True)
    members = observation_batch(env.observation, STEPS * ROWS)
    features = make_features(env.observation)
    numbers = (features(members) / features.scales()).reshape(STEPS, ROWS, -1)
    starts = torch.rand(STEPS, ROWS) < 0.1
    mask = None
    if "Mask" in expression:
        options = action_sizes(env.action)
        allowed = [torch.rand(STEPS, ROWS, n) < 0.5 for n in options]
        mask = torch.cat([a | (~a.any(-1, keepdim=True)) for a in allowed], -1)
    results, likeliest, random = played(
        driver, weights, policy, numbers, starts, mask, alignment=alignment
    )
    outputs, modes, state = [], [], policy.initial_state(ROWS)
    for t in range(STEPS):
        rows = slice(t * ROWS, (t + 1) * ROWS)
        state["episode_start"] = starts[t]
        if mask is not None:
            state["action_mask"] = mask[t]
        with torch.no_grad():
            logits, values = policy.forward_eval(_rows(members, rows), state)
        outputs.append(torch.cat([*(each.flatten(1) for each in _numbers(logits)), values], -1))
        modes.append(distribution(logits).mode().reshape(ROWS, -1).float())
    answers = torch.tensor(results)
    if mask is not None:
        answers[:, :, :-1].masked_fill_(~mask, -torch.inf)
        first = torch.tensor([0, *options[:-1]]).cumsum(0)
        assert mask.gather(-1, torch.tensor(random).long() + first).all()
    torch.testing.assert_close(answers, torch.stack(outputs), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(likeliest), torch.stack(modes), atol=1e-4, rtol=0)


def _rows(members: Any, rows: slice) -> Any:
    return map_tensors(lambda each: each[rows], members)


def _numbers(logits: Any) -> list[torch.Tensor]:
    """Logits, or the means of real numbers."""
    return [logits.loc] if hasattr(logits, "loc") else tensors_of(logits)


@pytest.mark.exhaustive
def test_c_and_onnxruntime_and_pytorch_agree_on_one_file(driver: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    weights = export_puffer(get_policy("PufferNet", CARTPOLE), tmp_path / "w.bin")
    policy = read_puffer(weights, CARTPOLE)
    session = runtime.InferenceSession(export_policy(policy, tmp_path / "w.onnx"))
    observations, starts = torch.randn(STEPS, ROWS, 4), torch.rand(STEPS, ROWS) < 0.1
    results, *_ = played(driver, weights, policy, observations, starts)
    state, carried = policy.initial_state(ROWS), np.zeros((ROWS, 4, 128), np.float32)
    for t in range(STEPS):
        state["episode_start"] = starts[t]
        with torch.no_grad():
            logits, values = policy.forward_eval(observations[t], state)
        inputs = {"obs": observations[t].numpy(), "episode_start": starts[t].numpy()}
        outputs = session.run(None, {**inputs, "state.lstm_h": carried})
        names = [each.name for each in session.get_outputs()]
        answers = dict(zip(names, outputs, strict=True))
        carried = answers["next_state.lstm_h"]
        mine = np.concatenate([logits, values], -1)
        other = np.concatenate([answers["logits"], answers["value"].reshape(-1, 1)], -1)
        assert np.abs(mine - results[t]).max() < 1e-4
        assert np.abs(other - results[t]).max() < 1e-4


def test_a_reset_forgets_what_is_not_a_number(driver: Path, tmp_path: Path) -> None:
    policy = get_policy("PufferNet(hidden_size=16)", CARTPOLE)
    weights = export_puffer(policy, tmp_path / "w.bin")
    observations = torch.rand(4, 2, 4)
    observations[0, 0] = torch.nan
    starts = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    results, *_ = played(driver, weights, policy, observations, starts)
    assert np.isnan(results[:2, 0]).all()
    assert np.isfinite(results[2:]).all()
    assert np.isfinite(results[:, 1]).all()


def test_random_actions_have_the_probabilities_of_the_policy(driver: Path, tmp_path: Path) -> None:
    steps, rows = 20, 200
    starts = torch.ones(steps, rows, dtype=torch.bool)
    for actions in (spaces.Discrete(3), spaces.Box(-1, 1, (2,))):
        torch.manual_seed(1)
        env = Spaces(spaces.Box(-1, 1, (4,)), actions)
        policy = get_policy("PufferNet(hidden_size=8, num_layers=1)", env)
        with torch.no_grad():
            policy.actor.linear.weight.mul_(100)
            if policy.is_continuous:
                policy.actor.log_std.copy_(torch.tensor([-1.0, 0.5]))
        weights = export_puffer(policy, tmp_path / "w.bin", complete=True)
        observation = torch.rand(1, 1, 4).expand(steps, rows, 4)
        *_, random = played(driver, weights, policy, observation, starts)
        with torch.no_grad():
            logits, _ = policy.forward_eval(observation[0, :1])
        if policy.is_continuous:
            drawn = random.reshape(-1, 2)
            assert np.abs(drawn.mean(0) - logits.loc[0].numpy()).max() < 0.1
            assert np.abs(drawn.std(0) / logits.scale[0].numpy() - 1).max() < 0.05
        else:
            shares = np.bincount(random.reshape(-1).astype(int), minlength=3) / random.size
            assert np.abs(shares - logits[0].softmax(-1).numpy()).max() < 0.03


def test_the_program_refuses_a_file_of_another_size(driver: Path, tmp_path: Path) -> None:
    weights = export_puffer(get_policy("PufferNet(hidden_size=16)", CARTPOLE), tmp_path / "w.bin")
    for layers, size in (("5", "12736 bytes"), ("3", "9668 bytes or more")):
        sizes = ["4", "16", layers, "8", "1", "0", "1", "2"]
        command = [driver, weights, *sizes]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 1
        assert f"w.bin has {size}; a net of these sizes has" in process.stderr


PROGRAM = r"""
#define PUFFERNET_IMPLEMENTATION
#include "9 lives.h"
#include "second.h"

int main(void) {
    char error[PUFFERNET_ERROR];
    puffernet *net = puffernet_open("9 lives.bin", &net_9_lives_sizes, 1, error);
    puffernet *other = puffernet_open("second.bin", &second_sizes, 2, error);
    if (!net || !other) return puts(error), 1;
    printf("%ld %g %g\n", net_9_lives_start[0], (double)second_low[0], (double)second_high[3]);
    puffernet_close(net);
    puffernet_close(other);
    return 0;
}
"""


def test_headers_compile_with_any_space_and_any_name(tmp_path: Path) -> None:
    nested = spaces.Dict({"*/ #error": spaces.Discrete(2), "/* ??/": spaces.MultiBinary(2)})
    first = get_policy("PufferNet(hidden_size=8)", Spaces(nested, spaces.Discrete(3, start=-4)))
    box = spaces.Box(-0.5, np.inf, (2, 2))
    second = get_policy("PufferNet(hidden_size=8)", Spaces(VECTOR, box))
    assert export_c(first, tmp_path / "9 lives.h") == tmp_path / "9 lives.h"
    export_c(second, tmp_path / "second.h")
    source = tmp_path / "main.c"
    source.write_text(PROGRAM)
    program = compiled(source, tmp_path / "main")
    output = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert output.stdout == "-4 -0.5 3.40282e+38\n"


def test_the_name_of_the_reader_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"puffernet\.h is the reader's name"):
        export_c(get_policy("PufferNet", CARTPOLE), tmp_path / "puffernet.h")
    with pytest.raises(ExportError, match="is not a header's name"):
        export_c(get_policy("PufferNet", CARTPOLE), tmp_path / "cartpole.bin")
    assert not list(tmp_path.iterdir())
