"""Checkpoints: the whole policy from the file alone, and clear refusals of everything else."""

from __future__ import annotations

import json
import pickle
import resource
import struct
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from plain_policies import Plain, PufferLSTM, Split
from torch import nn

from puffer_policies import Agent, discover, files
from puffer_policies.assembly import checkpoint, tensorfile
from puffer_policies.assembly.checkpoint import (
    load_policy,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.header import installed_version, read_header
from puffer_policies.assembly.tensorfile import digest_of
from puffer_policies.errors import CheckpointError, PolicyNotFound
from puffer_policies.spaces import Spaces, spaces_of

BOX, DISCRETE = gymnasium.spaces.Box, gymnasium.spaces.Discrete
SPACES = Spaces(BOX(-1, 1, (3,)), DISCRETE(2))
VERSION = installed_version("puffer-policies")


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("expression", ["Default(hidden_size=8)", "LSTMWrapper(Default)"])
def test_a_policy_comes_back_from_its_file_alone(expression, tmp_path):
    policy = get_policy(expression, SPACES)
    path = save_checkpoint(tmp_path / "m.safetensors", policy, env=SPACES)
    loaded = load_policy(path, SPACES)
    assert same(policy, loaded)
    assert loaded.spec == policy.spec


def test_the_header_says_where_everything_came_from(tmp_path):
    policy = get_policy("LSTMWrapper(Default)", SPACES)
    path = save_checkpoint(
        tmp_path / "m.safetensors",
        policy,
        env=SPACES,
        config={"env_name": "X-v0"},
        training={"epoch": 3},
    )
    header = read_header(path)
    assert header.spec == policy.spec
    assert header.config == {"env_name": "X-v0"}
    assert header.training == {"epoch": 3}
    assert [each.distribution for each in header.origins] == ["puffer-policies"] * 2
    assert header.versions["torch"].split("+")[0] in torch.__version__
    assert header.observation_space == str(SPACES.observation)


@pytest.mark.parametrize(
    "observation",
    [
        BOX(np.float32([-4.8, -np.inf, 1 / 3]), np.float32([4.8, np.inf, 2 / 3])),
        gymnasium.spaces.Dict({"b": BOX(0, 1, (2,)), "a": DISCRETE(3, start=1)}),
    ],
    ids=["box", "dict"],
)
@pytest.mark.parametrize("options", [{"precision": 2}, {"floatmode": "fixed"}, {"linewidth": 9}])
def test_spaces_are_compared_and_not_their_texts(observation, options, tmp_path):
    spaces = Spaces(observation, DISCRETE(2))
    policy = get_policy("Default(hidden_size=8)", spaces)
    with np.printoptions(**options):
        copy = Spaces(pickle.loads(pickle.dumps(observation)), DISCRETE(2))
        path = save_checkpoint(tmp_path / "m", policy, env=spaces)
        assert same(policy, load_policy(path, copy))
    assert same(policy, load_policy(path, spaces))
    assert read_header(path).spaces == spaces


def test_a_policy_is_built_without_its_env(tmp_path):
    policy = get_policy("LSTMWrapper(Default)", "CartPole-v1")
    path = save_checkpoint(tmp_path / "m", policy, env="CartPole-v1")
    loaded = load_policy(path)
    assert same(policy, loaded)
    assert loaded.spaces == spaces_of("CartPole-v1")


def test_the_folder_of_a_run_stands_for_its_last_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no latest\.safetensors"):
        load_policy(tmp_path)
    policy = get_policy("Default", SPACES)
    save_checkpoint(tmp_path / files.LATEST, policy, env=SPACES)
    assert same(policy, load_policy(tmp_path, SPACES))
    assert read_header(tmp_path).spec == policy.spec


class Angle(BOX):
    """A space that a file can't rebuild."""


def test_spaces_of_classes_of_others_are_compared_by_their_texts(tmp_path):
    spaces = Spaces(Angle(-1 / 3, 1 / 3, (3,)), DISCRETE(2))
    policy = get_policy("Default", spaces)
    path = save_checkpoint(tmp_path / "m", policy, env=spaces)
    with np.printoptions(precision=2):
        again = Spaces(Angle(-1 / 3, 1 / 3, (3,)), DISCRETE(2))
        assert same(policy, load_policy(path, again))
    with pytest.raises(CheckpointError, match="Pass the env"):
        load_policy(path)
    with pytest.raises(CheckpointError, match="other spaces"):
        load_policy(path, Spaces(Angle(-1, 1, (3,)), DISCRETE(2)))


FORMAT_1 = Path(__file__).parent / "checkpoint_of_format_1.safetensors"
"""LSTMWrapper(Default(hidden_size=2)) for CartPole-v1, by the last version that wrote format 1."""
_CART = np.float32([4.8, np.inf, 0.41887903, np.inf])
CARTPOLE = Spaces(BOX(-_CART, _CART), DISCRETE(2))
"""Not the env's, whose bounds differ between versions of gymnasium."""


@pytest.mark.parametrize("options", [{}, {"precision": 2, "floatmode": "fixed"}])
def test_a_file_of_format_1_is_still_read(options):
    with np.printoptions(**options):
        policy = load_policy(FORMAT_1, CARTPOLE)
        assert str(policy.spec) == str(read_header(FORMAT_1).spec)
        with pytest.raises(CheckpointError, match="other spaces"):
            load_policy(FORMAT_1, SPACES)
    with pytest.raises(CheckpointError, match="an earlier version wrote it"):
        load_policy(FORMAT_1)
    assert load_weights(FORMAT_1, policy).training == {"global_step": 64, "epoch": 2}


FORMAT_2 = Path(__file__).parent / "checkpoint_of_format_2.safetensors"
"""LSTMWrapper(NormalizeObservationWrapper(MultiInput(hidden_size=2), clip=5.0)) for these spaces,
by version 0.1.0, with statistics of 64 observations and a golden sample."""
PARTS = Spaces(
    gymnasium.spaces.Dict(
        {
            "numbers": BOX(-_CART, _CART),
            "code": DISCRETE(3, start=-1),
            "pixels": BOX(0, 255, (2, 3, 3), np.uint8),
        }
    ),
    gymnasium.spaces.MultiDiscrete([2, 3]),
)


def test_a_file_of_format_2_is_still_read_and_answers_as_it_did(tmp_path):
    policy = load_policy(FORMAT_2)
    header = read_header(FORMAT_2)
    assert (header.observation, header.action) == (PARTS.observation, PARTS.action)
    assert (header.training, header.config) == ({"global_step": 64}, {"env_name": "Parts-v0"})
    assert header.spec.wrappers[0].kwargs == {"clip": 5.0}
    assert same(policy, load_policy(FORMAT_2, PARTS))
    assert read_checkpoint(FORMAT_2).sample["value"].shape == (2, 4)
    changed = bytearray(FORMAT_2.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "m").write_bytes(changed)
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(tmp_path / "m")
    safetensors.torch.save_file({}, tmp_path / "m", {"puffer_policies": header.to_json()})
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(tmp_path / "m")


def test_other_spaces_are_refused_and_both_sides_shown(tmp_path):
    path = save_checkpoint(tmp_path / "m", get_policy("Default", SPACES), env=SPACES)
    other = Spaces(BOX(-1, 1, (3,)), DISCRETE(5))
    with pytest.raises(CheckpointError, match=r"Discrete\(2\)[^$]*Discrete\(5\)") as caught:
        load_policy(path, other)
    assert "observation" not in str(caught.value)


def test_tensors_that_share_memory_are_stored_once(tmp_path):
    policy = PufferLSTM(SPACES, Split(SPACES))
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    stored = safetensors.torch.load_file(path)
    assert ("cell.weight_ih" in stored) != ("lstm.weight_ih_l0" in stored)
    other = PufferLSTM(SPACES, Split(SPACES))
    load_weights(path, other)
    assert same(policy, other)


class Prefixed(nn.Module):
    def __init__(self, name, inner):
        super().__init__()
        self.add_module(name, inner)


def test_tensors_that_are_views_of_others_are_stored(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    views = {"whole": weight, "flat": weight.view(-1), "row": weight[1]}
    path = tensorfile.write_tensors(tmp_path / "views.safetensors", views, header="{}", key="views")
    found, _ = tensorfile.read_tensors(path, key="views")
    assert all(torch.equal(found[name], views[name]) for name in views)


@pytest.mark.parametrize("prefix", ["module", "_orig_mod"])
def test_prefixes_of_torch_are_dropped_at_the_start(prefix, tmp_path):
    policy, other = Plain(SPACES), Plain(SPACES)
    path = save_checkpoint(tmp_path / "m", Prefixed(prefix, policy), env=SPACES)
    load_weights(path, other)
    assert same(policy, other)
    third = Plain(SPACES)
    load_weights(path, Prefixed(prefix, third))
    assert same(policy, third)


def test_a_submodule_whose_name_holds_a_prefix_keeps_it(tmp_path):
    policy, other = (nn.ModuleDict({"my_module": Plain(SPACES)}) for _ in range(2))
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    load_weights(path, other)
    assert same(policy, other)


def test_weights_that_do_not_fit_are_all_listed(tmp_path):
    path = save_checkpoint(tmp_path / "m", Plain(SPACES), env=SPACES)
    other = Plain(SPACES, hidden_size=4)
    other.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(path, other)
    text = str(caught.value)
    assert "net.0.weight: (16, 3) float32 in the file, (4, 3) float32 in the policy" in text
    assert "extra.weight: missing in the file" in text


def test_weights_of_another_dtype_do_not_fit(tmp_path):
    path = save_checkpoint(tmp_path / "m", Plain(SPACES).double(), env=SPACES)
    with pytest.raises(CheckpointError, match=r"float64 in the file, \(16, 3\) float32"):
        load_weights(path, Plain(SPACES))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(number, tmp_path):
    policy = get_policy("Default(hidden_size=8)", SPACES)
    policy.register_buffer("mask", torch.full((2,), -float("inf")))
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    assert load_weights(path, policy).digest  # infinities of a buffer are masks
    torch.nn.init.constant_(policy.critic.bias, number)
    save_checkpoint(path, policy, env=SPACES)
    with pytest.raises(CheckpointError, match=r"critic\.bias: 1 of 1 are NaN or infinite"):
        load_weights(path, policy)


def test_changed_bytes_of_tensors_are_noticed(tmp_path):
    path = save_checkpoint(tmp_path / "m", get_policy("Default", SPACES), env=SPACES)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not those that were written"):
        load_policy(path, SPACES)


def recipe(path, **changes):
    """Write another recipe into a checkpoint."""
    tensors, text = tensorfile.read_tensors(path, key="puffer_policies")
    header = json.loads(text)
    header["spec"] |= changes
    tensorfile.write_tensors(path, tensors, header=json.dumps(header), key="puffer_policies")


def wrappers(*names, **kwargs):
    return {"wrappers": [{"name": f"puffer-policies/{name}", "kwargs": kwargs} for name in names]}


@pytest.mark.parametrize(
    "changes",
    [
        {"kwargs": {"hidden_size": 10**8}},
        {"kwargs": {"num_layers": 10**6}},
        {"kwargs": {"num_layers": 10**12}},
        wrappers("FrameStackWrapper", frames=10**8),
        wrappers("LSTMWrapper", num_layers=10**9),
        wrappers("GTrXLWrapper", num_layers=10**9),
        wrappers(*["SeparateCriticWrapper"] * 30),
        wrappers(*["SquashedWrapper"] * 1000),
        {"name": "x" * 10**6},
        {"kwargs": {"x" * 10**6: 1}},
        {"kwargs": {"hidden_size": "x" * 10**6}},
        {"kwargs": {"hidden_size": [8] * 10**5}},
    ],
    ids=lambda changes: str(changes)[:70],
)
def test_a_recipe_that_is_larger_than_its_weights_is_refused_before_it_is_built(changes, tmp_path):
    policy = get_policy("Default(hidden_size=8)", SPACES)
    path = save_checkpoint(tmp_path / "m", policy, env=SPACES)
    recipe(path, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        load_policy(path)
    assert len(str(caught.value)) < 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_weights_without_a_recipe_need_their_policy(tmp_path):
    path = save_checkpoint(tmp_path / "m", Plain(SPACES), env=SPACES)
    with pytest.raises(CheckpointError, match="load_weights"):
        load_policy(path, SPACES)


def trained_with(path, distribution, version):
    """Write a checkpoint of a policy that a distribution brings."""
    save_checkpoint(path, get_policy("Default", SPACES), env=SPACES)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["puffer_policies"])
    name = header["spec"]["name"] = f"{distribution}/Net"
    header["origins"] = [{"name": name, "distribution": distribution, "version": version}]
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"puffer_policies": json.dumps(header)})


@pytest.mark.parametrize(
    ("distribution", "version", "expected"),
    [
        ("acme-nets", "1.2", "pip install 'acme-nets==1.2'"),
        ("project", "", "set PUFFER_POLICIES_REGISTRY to the file"),
        ("x;reboot", "1", "It was trained with x;reboot 1."),
    ],
)
def test_a_policy_that_is_not_installed_is_named_with_its_package(
    tmp_path, distribution, version, expected
):
    trained_with(tmp_path / "m", distribution, version)
    with pytest.raises(CheckpointError) as caught:
        load_policy(tmp_path / "m", SPACES)
    assert expected in caught.value.fix
    # A shell obeys more than names, and other policies would not fit the weights.
    assert ("pip install" in str(caught.value)) is (distribution == "acme-nets")
    assert "Default" not in str(caught.value)


def other_version(path, spec=None, tensor=None):
    """Let a checkpoint be of an earlier version of this package, of a spec and with a tensor."""
    header = json.loads(read_header(path).to_json())
    header["versions"]["puffer-policies"] = header["origins"][0]["version"] = "0.0.7"
    header["spec"] |= spec or {}
    tensors = safetensors.torch.load_file(path) | (tensor or {})
    header["digest"] = digest_of(tensors)
    safetensors.torch.save_file(tensors, path, {"puffer_policies": json.dumps(header)})


@pytest.mark.parametrize(
    ("problem", "changes"),
    [
        ("Gone", {"spec": {"name": "puffer-policies/Gone"}}),
        ("old_option", {"spec": {"kwargs": {"old_option": 1}}}),
        ("do not fit", {"tensor": {"old_layer.weight": torch.zeros(1)}}),
    ],
)
def test_a_policy_that_its_package_no_longer_builds_names_both_versions(tmp_path, problem, changes):
    path = save_checkpoint(tmp_path / "m", get_policy("Default", SPACES), env=SPACES)
    other_version(path, **changes)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_policy(path)
    assert f"It was saved with puffer-policies 0.0.7; {VERSION} is installed." in caught.value.fix


@pytest.mark.trainer
def test_a_run_that_is_resumed_names_the_package_as_well(tmp_path):
    from puffer_policies.runs.setup import naming_packages

    trained_with(tmp_path / "m", "acme-nets", "1.2")
    with pytest.raises(PolicyNotFound, match=r"acme-nets==1\.2"), naming_packages(tmp_path / "m"):
        get_policy("Net", SPACES)


def test_a_later_format_is_refused(tmp_path):
    header = json.dumps({"format_version": 99, "versions": {"puffer-policies": "9.9"}})
    tensors = {"x": torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "m", {"puffer_policies": header})
    with pytest.raises(CheckpointError, match=r"format 99[^$]*9\.9"):
        read_header(tmp_path / "m")


def test_a_file_that_is_replaced_while_its_policy_is_built_is_loaded_as_it_was(tmp_path):
    first, second = (get_policy("Default(hidden_size=8)", SPACES) for _ in range(2))
    path = save_checkpoint(tmp_path / "m", first, env=SPACES)
    other = save_checkpoint(tmp_path / "other", second, env=SPACES)

    class Hooks:
        """The trainer of the run saves when the policy is built, and has no weights yet."""

        def policy_built(self, policy, spec):
            other.replace(path)

    registry = discover(environ={"PUFFER_POLICIES_PLUGINS": ""})
    registry.hooks = Hooks()
    assert same(load_policy(path, SPACES, registry=registry), first)
    assert same(load_policy(path, SPACES), second)


def test_a_header_is_read_without_the_tensors(tmp_path):
    size = 2**36
    header = read_header(save_checkpoint(tmp_path / "m", Plain(SPACES), env=SPACES)).to_json()
    entries = {
        "__metadata__": {"puffer_policies": header},
        "weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]},
    }
    text = json.dumps(entries).encode()
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        # 64 GiB that take no room on the disk, and have none in memory.
        file.truncate(8 + len(text) + size)
    assert read_header(path).observation_space == str(SPACES.observation)


def damaged(path, kind):
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pickle":
        torch.save({"x": torch.zeros(2)}, path)
    elif kind == "foreign":
        safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    elif kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "header":
        tensors = {"x": torch.zeros(1)}
        safetensors.torch.save_file(tensors, path, {"puffer_policies": '{"format_version": 1}'})


@pytest.mark.parametrize(
    "kind", ["truncated", "empty", "pickle", "foreign", "missing", "folder", "header"]
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(kind, tmp_path):
    path = save_checkpoint(tmp_path / "model", get_policy("Default", SPACES), env=SPACES)
    damaged(path, kind)
    with pytest.raises(CheckpointError, match="model"):
        load_policy(path, SPACES)
    with pytest.raises(CheckpointError, match="model"):
        read_header(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "m", Plain(SPACES), env=SPACES)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(CheckpointError, match="no space left"):
        save_checkpoint(path, Plain(SPACES), env=SPACES)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="can't be written"):
        save_checkpoint(tmp_path / "none" / "m", Plain(SPACES), env=SPACES)


def test_the_spaces_of_an_env_are_its_fingerprint(tmp_path):
    env = gymnasium.make_vec("CartPole-v1", 2)
    path = save_checkpoint(tmp_path / "m", get_policy("Default", env), env=env)
    checkpoint.require_same_spaces(read_header(path), spaces_of("CartPole-v1"), path)


def test_an_agent_of_a_file_acts_without_what_the_trainer_needs(tmp_path):
    # This file also runs with a gymnasium that the trainer refuses (make test-oldest).
    spaces = Spaces(BOX(-1, 1, (3,)), DISCRETE(2, start=5))
    policy = get_policy("LSTMWrapper(Default(hidden_size=8))", spaces)
    agent = Agent.load(save_checkpoint(tmp_path / "m.safetensors", policy, env=spaces))
    assert agent.act(np.zeros(3, np.float32)) in (5, 6)
