"""PufferLib 5's file of weights: PufferLib's bytes are read and written, others are refused."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from gymnasium import spaces
from specimens import ACTIONS, OBSERVATIONS, VECTOR, observation_batch

from puffer_policies import Spaces, get_policy
from puffer_policies.assembly.checkpoint import load_policy, read_checkpoint, save_checkpoint
from puffer_policies.errors import BuildError, CheckpointError, ExportError, IncompatibleSpace
from puffer_policies.export.api import export_policy
from puffer_policies.export.flatfile import export_puffer, flat_layout, read_puffer
from puffer_policies.zoo.puffer import PufferNet

CARTPOLE = Spaces(spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
SEVERAL = Spaces(VECTOR, ACTIONS["multidiscrete"])
BOX = Spaces(VECTOR, spaces.Box(-1, 1, (3,)))
SMALL = {"hidden_size": 16, "num_layers": 2}


def memory_of_pufferlib(shapes: list[tuple[int, ...]], bytes_each: int) -> tuple[np.ndarray, list]:
    """Numbers 1, 2, ... where PufferLib's allocator puts tensors, cut as it saves them."""
    offset, places = 0, []
    for shape in shapes:
        offset = (offset + 15) & ~15
        places.append(offset // bytes_each)
        offset += math.prod(shape) * bytes_each
    memory = np.zeros(offset // bytes_each, np.float32)
    number = 1
    for shape, place in zip(shapes, places, strict=True):
        size = math.prod(shape)
        memory[place : place + size] = np.arange(number, number + size)
        number += size
    return memory[: sum(map(math.prod, shapes))], places


def shapes_of(env: Spaces, outputs: int, deviations: int) -> list[tuple[int, ...]]:
    hidden, layers = SMALL["hidden_size"], SMALL["num_layers"]
    heads = [(hidden, *env.observation.shape), (outputs + 1, hidden)]
    return [*heads, *([(1, deviations)] if deviations else []), *[(3 * hidden, hidden)] * layers]


@pytest.mark.parametrize(("alignment", "bytes_each"), [(8, 2), (4, 4)])
@pytest.mark.parametrize(
    ("env", "outputs", "deviations"), [(CARTPOLE, 2, 0), (SEVERAL, 9, 0), (BOX, 3, 3)]
)
def test_a_file_of_pufferlib_is_read_number_by_number(
    tmp_path: Path, env: Spaces, outputs: int, deviations: int, alignment: int, bytes_each: int
) -> None:
    shapes = shapes_of(env, outputs, deviations)
    numbers, _ = memory_of_pufferlib(shapes, bytes_each)
    path = tmp_path / "weights.bin"
    path.write_bytes(numbers.astype("<f4").tobytes())
    weights = read_puffer(path, env, **SMALL, alignment=alignment).state_dict()
    decoder = torch.cat([weights["actor.linear.weight"], weights["critic.weight"]])
    read = [weights["encoder.layers.0.weight"], decoder]
    read += [weights["actor.log_std"]] if deviations else []
    read += [weights[f"core.layers.{i}.linear.weight"] for i in range(2)]
    flat = torch.cat([each.reshape(-1) for each in read])
    lost = -deviations % alignment
    expected = torch.arange(1, len(flat) + 1).float()
    expected[len(flat) - lost :] = 0
    assert torch.equal(flat, expected)
    assert len(numbers) == len(flat) == flat_layout(env, **SMALL).count


@pytest.mark.parametrize("alignment", [8, 4])
@pytest.mark.parametrize("env", [CARTPOLE, SEVERAL, BOX])
def test_what_is_written_is_read_again(tmp_path: Path, env: Spaces, alignment: int) -> None:
    policy = get_policy("PufferNet", env, **SMALL)
    path = export_puffer(policy, tmp_path / "w.bin", alignment=alignment, complete=True)
    read = read_puffer(path, env, **SMALL, alignment=alignment)
    for name, weight in policy.state_dict().items():
        assert torch.equal(weight, read.state_dict()[name]), name
    assert export_puffer(read, tmp_path / "again.bin", alignment=alignment, complete=True)
    assert path.read_bytes() == (tmp_path / "again.bin").read_bytes()


def test_cartpoles_file_has_pufferlibs_size(tmp_path: Path) -> None:
    policy = get_policy("PufferNet", "CartPole-v1")
    path = export_puffer(policy, tmp_path / "cartpole.bin")
    assert path.stat().st_size == 4 * 197_504


def test_a_policy_from_a_file_is_saved_as_any_other(tmp_path: Path) -> None:
    masked = get_policy("ActionMaskWrapper(PufferNet(hidden_size=16, num_layers=2))", SEVERAL)
    path = export_puffer(masked, tmp_path / "w.bin")
    read = read_puffer(path, SEVERAL, **SMALL, masked=True)
    assert str(read.spec) == str(masked.spec)
    saved = save_checkpoint(tmp_path / "w.safetensors", read, env=SEVERAL)
    weights = load_policy(saved).state_dict()
    assert all(torch.equal(weights[name], each) for name, each in masked.state_dict().items())


def test_weights_without_a_place_in_the_file_are_told(tmp_path: Path) -> None:
    policy = get_policy("PufferNet", BOX, **SMALL)
    with pytest.warns(RuntimeWarning, match="lacks the last 5 of the weights of layer 1"):
        path = export_puffer(policy, tmp_path / "w.bin")
    last = read_puffer(path, BOX, **SMALL).state_dict()["core.layers.1.linear.weight"].reshape(-1)
    expected = policy.state_dict()["core.layers.1.linear.weight"].reshape(-1).clone()
    assert expected[-5:].all()
    expected[-5:] = 0
    assert torch.equal(last, expected)
    again = export_puffer(read_puffer(path, BOX, **SMALL), tmp_path / "again.bin", complete=True)
    assert again.read_bytes() == path.read_bytes()
    with pytest.warns(RuntimeWarning, match="lacks the last 1 of the weights of layer 1"):
        export_puffer(policy, path, alignment=4)


def test_pixels_are_scaled_in_the_file_by_its_weights(tmp_path: Path) -> None:
    env = Spaces(OBSERVATIONS["image_chw"], spaces.Discrete(2))
    policy = get_policy("PufferNet", env, **SMALL)
    path = export_puffer(policy, tmp_path / "w.bin")
    inputs = env.observation.shape[0] * env.observation.shape[1] * env.observation.shape[2]
    encoder = torch.from_numpy(np.fromfile(path, "<f4", 16 * inputs).reshape(16, inputs))
    observations = observation_batch(env.observation, 5)
    hidden = policy.encode_observations(observations)
    torch.testing.assert_close(observations.flatten(1).float() @ encoder.T, hidden)
    read = read_puffer(path, env, **SMALL)
    torch.testing.assert_close(read.encode_observations(observations), hidden)


def test_a_deviation_beyond_our_bounds_is_written_as_it_acts(tmp_path: Path) -> None:
    policy = get_policy("PufferNet", BOX, **SMALL)
    with torch.no_grad():
        policy.actor.log_std.copy_(torch.tensor([-9.0, 0.5, 9.0]))
    path = export_puffer(policy, tmp_path / "w.bin", complete=True)
    read = read_puffer(path, BOX, **SMALL)
    assert read.actor.log_std.tolist() == [-5.0, 0.5, 2.0]


def test_another_number_of_weights_shows_the_arithmetic(tmp_path: Path) -> None:
    path = export_puffer(get_policy("PufferNet", CARTPOLE, **SMALL), tmp_path / "w.bin")
    with pytest.raises(CheckpointError) as caught:
        read_puffer(path, CARTPOLE)
    text = str(caught.value)
    assert "holds 1,648 numbers" in text
    for row in ("encoder 128 x 4 512", "decoder 3 x 128 384", "layers 4 x 384 x 128 196,608"):
        assert row.split() in [line.split() for line in text.splitlines()]
    assert "197,504" in text
    assert "hidden_size=16, num_layers=2 would have as many" in text


@pytest.mark.parametrize("change", [-1, -4, 4])
def test_a_file_that_is_cut_or_longer_is_refused(tmp_path: Path, change: int) -> None:
    path = export_puffer(get_policy("PufferNet", CARTPOLE, **SMALL), tmp_path / "w.bin")
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"\0" * change)
    expected = "1,648" if change % 4 == 0 else "6,591 bytes"
    with pytest.raises(CheckpointError, match=expected):
        read_puffer(path, CARTPOLE, **SMALL)


def test_sizes_that_no_file_has_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds 0 numbers.*has 3,000,00"):
        read_puffer(path, CARTPOLE, hidden_size=1_000_000, num_layers=1)
    for wrong in ({"hidden_size": 0}, {"num_layers": 2.5}, {"alignment": 6}):
        with pytest.raises(BuildError, match=next(iter(wrong))):
            read_puffer(path, CARTPOLE, **wrong)
    for missing in (tmp_path, tmp_path / "none.bin"):
        with pytest.raises(CheckpointError, match="PufferLib 5 wrote"):
            read_puffer(missing, CARTPOLE)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = export_puffer(get_policy("PufferNet", CARTPOLE, **SMALL), tmp_path / "w.bin")
    numbers = np.fromfile(path, "<f4")
    numbers[3] = np.nan
    path.write_bytes(numbers.tobytes())
    with pytest.raises(CheckpointError, match="not finite"):
        read_puffer(path, CARTPOLE, **SMALL)


class Changed(PufferNet):
    """Might compute anything else."""


@pytest.mark.parametrize(
    "policy",
    [
        "Default",
        "MinGRUWrapper(Default, num_layers=4, highway=True)",
        "NormalizeObservationWrapper(PufferNet)",
        "SeparateCriticWrapper(PufferNet)",
        Changed,
    ],
)
def test_other_policies_are_refused_by_name(tmp_path: Path, policy: str | type) -> None:
    name = policy if isinstance(policy, str) else policy.__name__
    with pytest.raises(ExportError, match=f"nothing else, not .*{name.split('(')[0]}"):
        export_puffer(get_policy(policy, CARTPOLE, validate="off"), tmp_path / "w.bin")
    assert not list(tmp_path.iterdir())


def test_actions_that_pufferlib_would_misread_are_refused(tmp_path: Path) -> None:
    for actions in (spaces.Discrete(1), spaces.MultiDiscrete([1, 1])):
        policy = get_policy("PufferNet", Spaces(VECTOR, actions), hidden_size=8)
        with pytest.raises(IncompatibleSpace, match="nothing to choose"):
            export_puffer(policy, tmp_path / "w.bin")


def test_a_width_of_which_pufferlib_loses_too_much_is_refused(tmp_path: Path) -> None:
    env = Spaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(3))
    policy = get_policy("PufferNet", env, hidden_size=5, num_layers=2)
    with pytest.raises(
        ExportError, match=r"hidden_size=5 .* gaps of \d+ numbers.*\n.*multiple of 8"
    ):
        export_puffer(policy, tmp_path / "w.bin")
    path = export_puffer(policy, tmp_path / "w.bin", complete=True)
    assert read_puffer(path, env, hidden_size=5, num_layers=2) is not None


def test_the_command_line_makes_a_checkpoint(tmp_path: Path, capsys: Any) -> None:
    env = "CartPole-v1"
    policy = get_policy("ActionMaskWrapper(PufferNet)", env, **SMALL)
    path = export_puffer(policy, tmp_path / "w.bin", alignment=4)
    flags = ["--env", env, "--hidden-size", "16", "--num-layers", "2", "--float"]
    code, output, _ = run(capsys, "import", str(path), *flags, "--masked", "--json")
    saved = json.loads(output)
    assert (code, saved["path"]) == (0, str(tmp_path / "w.safetensors"))
    checkpoint = read_checkpoint(saved["path"])
    assert checkpoint.header.config["env_name"] == env
    weights = checkpoint.build_policy(env).state_dict()
    assert all(torch.equal(weights[name], each) for name, each in policy.state_dict().items())
    code, _, error = run(capsys, "import", str(path), "--env", env, "-o", str(tmp_path / "other"))
    assert (code, "hidden_size=16, num_layers=2 would have as many" in error) == (2, True)
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_is_exported_by_the_table_of_targets(tmp_path: Path, capsys: Any) -> None:
    policy = get_policy("PufferNet", BOX, **SMALL)
    checkpoint = str(save_checkpoint(tmp_path / "w.safetensors", policy, env=BOX))
    for style, alignment in (("default", 8), ("float", 4)):
        with pytest.warns(RuntimeWarning, match="e.bin lacks the last"):
            expected = export_puffer(policy, tmp_path / "e.bin", alignment=alignment).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            flags = ["--to", "puffer", "--style", style]
            code, _, error = run(capsys, "export", checkpoint, *flags)
        assert (code, "w.bin lacks the last" in error) == (0, True)
        assert (tmp_path / "w.bin").read_bytes() == expected
    assert run(capsys, "export", checkpoint, "--to", "c")[0] == 0
    assert (tmp_path / "w.h").read_text().startswith("/* w: the sizes of the PufferNet in w.bin")
    assert len((tmp_path / "w.bin").read_bytes()) == 4 * flat_layout(BOX, **SMALL).end
    other = save_checkpoint(tmp_path / "d.safetensors", get_policy("Default", BOX), env=BOX)
    for target in ("puffer", "c"):
        with pytest.raises(ExportError, match=r"nothing else, not .*Default"):
            export_policy(other, to=target)
    code, _, error = run(capsys, "inspect", str(tmp_path / "w.bin"))
    assert (code, "puffer-policies import FILE" in error) == (2, True)
