"""The verb inspect: a checkpoint in words, without torch, and whether it answers as it did."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import run
from gymnasium import spaces as gym

from puffer_policies.assembly.checkpoint import load_policy, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.header import read_header
from puffer_policies.errors import CheckpointError
from puffer_policies.spaces import Spaces

SPACES = Spaces(gym.Box(-1, 1, (3,)), gym.Discrete(2))
FORMAT_1 = Path(__file__).parent / "checkpoint_of_format_1.safetensors"


@pytest.fixture
def path(project):
    policy = get_policy("LSTMWrapper(Default(hidden_size=8))", SPACES)
    return save_checkpoint(
        project / "m.safetensors",
        policy,
        env=SPACES,
        config={"env_name": "X-v0"},
        training={"epoch": 3},
    )


def test_all_that_a_file_holds_is_printed(path, capsys):
    status, out, _ = run(capsys, "inspect", str(path), "--verify")
    assert status == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert lines["policy"].endswith("LSTMWrapper(puffer-policies/Default(hidden_size=8))")
    assert lines["weights"] == "635 numbers in 10 tensors, F32"
    assert lines["action"] == "Discrete(2)"
    assert (lines["env"], lines["training"]) == ("X-v0", "updates: 3")
    assert "answers as it did" in lines["verified"]


def test_json_holds_the_header_and_the_form_of_each_weight(path, capsys):
    _, out, _ = run(capsys, "inspect", "--json", str(path))
    data = json.loads(out)
    assert (data["format_version"], data["golden_sample"], data["verified"]) == (2, True, False)
    assert data["weights"]["policy.critic.weight"] == {"dtype": "F32", "shape": [1, 8]}
    assert data["installed"]["torch"] == torch.__version__


def test_another_version_of_a_package_is_told(path, capsys):
    header = json.loads(read_header(path).to_json())
    header["versions"] |= {"torch": "1.0", "acme-nets": "2.0"}
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"puffer_policies": json.dumps(header)})
    _, out, _ = run(capsys, "inspect", str(path))
    assert f"torch 1.0; {torch.__version__} is installed" in out
    assert "acme-nets 2.0, which is not installed." in out


@pytest.mark.trainer  # the env's bounds are those of a later gymnasium
def test_a_file_of_format_1_is_verified_with_its_env(project, capsys):
    status, _, err = run(capsys, "inspect", str(FORMAT_1), "--verify")
    assert (status, "as texts only" in err) == (2, True)
    status, out, _ = run(capsys, "inspect", str(FORMAT_1), "--verify", "--env", "CartPole-v1")
    assert (status, "neither digest nor sample" in out) == (0, True)


def test_a_file_that_is_none_of_ours_is_told_in_words(project, path, capsys):
    whole = path.read_bytes()
    ends = f"it ends after {len(whole) - 9:,} of at least {len(whole):,} bytes"
    safetensors.torch.save_file({"x": torch.zeros(1)}, project / "x.safetensors")
    (project / "short.safetensors").write_bytes(b"\x10")
    (project / "cut.safetensors").write_bytes(whole[:-9])
    (project / "table.safetensors").write_bytes(whole[:500])
    for name, words in {
        "x.safetensors": "not of the kind asked for",
        "short.safetensors": "is damaged, or not a safetensors file",
        "cut.safetensors": f"is damaged: {ends}",
        "table.safetensors": "is damaged: it ends after 500 of at least ",
        "missing": "neither a run nor a checkpoint",
    }.items():
        status, _, err = run(capsys, "inspect", str(project / name))
        assert (status, words in err) == (2, True), err
        with pytest.raises(CheckpointError) as caught:
            load_policy(project / name)
        assert words in str(caught.value)
    _, _, err = run(capsys, "inspect", "x.safetensors")
    assert "by load_state_dict, and save_checkpoint" in err


@pytest.mark.parametrize("start", [b"\x80\x04", b"PK"])
def test_a_cut_file_whose_length_looks_like_another_kind_is_told_as_cut(start, tmp_path):
    length = int.from_bytes(start, "little")
    entries = '{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "m").write_bytes(struct.pack("<Q", length) + entries.ljust(length).encode())
    with pytest.raises(
        CheckpointError, match=f"ends after {length + 8:,} of at least {length + 12:,}"
    ):
        load_policy(tmp_path / "m")


def test_torch_is_not_imported_to_look(path):
    program = (
        "import sys; from puffer_policies.cli.main import main; "
        f"code = main(['inspect', {str(path)!r}]); sys.exit(code or 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
