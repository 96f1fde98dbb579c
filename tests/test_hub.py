"""Checkpoints of the Hub: locations, downloads and what goes wrong, against a stand-in server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from gymnasium import spaces as gym
from hub_server import TOKEN

from puffer_policies import load_policy
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.errors import CheckpointError, MissingDependency
from puffer_policies.hub.location import checkpoint_of
from puffer_policies.hub.repository import HubLocation, upload
from puffer_policies.spaces import Spaces

SPACES = Spaces(gym.Box(-1, 1, (3,)), gym.Discrete(2))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("policy") / "m.safetensors"
    policy = get_policy("Default(hidden_size=8)", SPACES)
    return save_checkpoint(path, policy, env=SPACES).read_bytes()


@pytest.mark.parametrize(
    ("text", "repo", "revision", "file"),
    [
        ("hf://anna/cartpole", "anna/cartpole", "", "model.safetensors"),
        ("hf://anna/cartpole@v1.0", "anna/cartpole", "v1.0", "model.safetensors"),
        ("hf://anna/cartpole/runs/best.safetensors", "anna/cartpole", "", "runs/best.safetensors"),
        ("hf://anna/cart@v1/best.safetensors", "anna/cart", "v1", "best.safetensors"),
        ("hf://anna/cart@refs/pr/7/a.safetensors", "anna/cart", "refs/pr/7", "a.safetensors"),
        ("hf://anna/cart@a%2Fbranch", "anna/cart", "a/branch", "model.safetensors"),
    ],
)
def test_a_location_is_read_and_written_back(text, repo, revision, file):
    location = HubLocation.parse(text)
    assert location == HubLocation(repo, revision, file)
    assert str(location) == text


@pytest.mark.parametrize(
    "text", ["hf://", "hf://cartpole", "hf://an na/x", "hf://../x", "hf://a/b--c", "hf://-a/b"]
)
def test_a_location_without_org_and_name_is_told(text):
    with pytest.raises(CheckpointError, match="not the name of a repo, which is org/name"):
        load_policy(text)


def test_a_location_that_is_another_s_scheme_or_lost_a_slash_is_told():
    with pytest.raises(CheckpointError, match="hf://org/name@revision"):
        load_policy("s3://bucket/policy.safetensors")
    with pytest.raises(CheckpointError, match="Give it as text: hf://anna/cartpole"):
        load_policy(Path("hf://anna/cartpole"))
    with pytest.raises(CheckpointError, match="no revision after '@'"):
        load_policy("hf://anna/cartpole@")


def test_a_policy_is_loaded_from_its_repo_at_any_revision(hub, data, capsys):
    old = hub.commit("anna/cartpole", {"model.safetensors": data})
    hub.commit("anna/cartpole", {"best.safetensors": data})
    observations = torch.rand(5, 3)
    expected = load_policy(f"hf://anna/cartpole@{old}")(observations)
    again = load_policy("hf://anna/cartpole/best.safetensors")(observations)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert run(capsys, "inspect", "--verify", f"hf://anna/cartpole@{old}")[0] == 0


def test_without_a_network_the_copy_in_the_cache_serves(hub, data, monkeypatch):
    hub.commit("anna/cartpole", {"model.safetensors": data})
    path = checkpoint_of("hf://anna/cartpole")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    pauses = []  # between the library's attempts
    monkeypatch.setattr("time.sleep", pauses.append)
    assert checkpoint_of("hf://anna/cartpole") == path
    with pytest.raises(CheckpointError, match="can't be reached, and there is no copy in the cac"):
        checkpoint_of("hf://anna/acrobot")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert checkpoint_of("hf://anna/cartpole") == path
    with pytest.raises(CheckpointError, match=r"(?s)no copy in the cache.*HF_HUB_OFFLINE"):
        checkpoint_of("hf://anna/acrobot@v1")
    assert not pauses


def test_what_a_repo_lacks_is_told(hub, data):
    hub.commit("anna/cartpole", {"best.safetensors": data, "README.md": b""})
    hub.commit("anna/pickles", {"model.zip": b""})
    for location, words in {
        "hf://anna/nothing": "There is no repo anna/nothing at http://127.0.0.1:",
        "hf://anna/cartpole@v9": "has no revision 'v9'",
        "hf://anna/cartpole": "It holds best.safetensors: write hf://anna/cartpole/best.safetenso",
        "hf://anna/pickles": "no .safetensors file at all",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            load_policy(location)
    with pytest.raises(CheckpointError, match="a single checkpoint, not a run with a best one"):
        checkpoint_of("hf://anna/cartpole", best=True)


def test_a_closed_repo_is_told(hub, data, monkeypatch):
    hub.commit("anna/secret", {"model.safetensors": data})
    hub.commit("bert/terms", {"model.safetensors": data})
    hub.private.add("anna/secret")
    hub.gated.add("bert/terms")
    with pytest.raises(CheckpointError, match="or it is private"):
        load_policy("hf://anna/secret")
    with pytest.raises(CheckpointError, match="accepted its terms"):
        load_policy("hf://bert/terms")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_policy("hf://anna/secret")


def test_a_file_of_the_hub_that_is_damaged_or_foreign_is_told(hub, data, capsys):
    hub.commit("anna/cut", {"model.safetensors": data[:100]})
    hub.commit("anna/zip", {"model.safetensors": b"PK\3\4"})
    for repo, words in {"anna/cut": "is damaged", "anna/zip": "is a zip archive"}.items():
        status, _, err = run(capsys, "inspect", f"hf://{repo}")
        assert (status, words in err) == (2, True), err


def test_a_folder_is_uploaded_in_one_commit(hub, data, tmp_path, monkeypatch):
    hub.commit("anna/cartpole", {"old.onnx": b"1", "notes.txt": b"2"})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "model.safetensors").write_bytes(data)
    location = upload(tmp_path / "staged", "anna/cartpole", message="x", replaced=["*.onnx"])
    commit, files = hub.files("anna/cartpole")
    assert location == HubLocation("anna/cartpole", commit)
    assert sorted(files) == ["model.safetensors", "notes.txt"]
    assert load_policy(str(location)) is not None


def test_an_upload_that_is_refused_is_told(hub, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="there is no token"):
        upload(tmp_path, "anna/cartpole", message="x")
    with pytest.raises(CheckpointError, match="'cartpole' is not the name of a repo"):
        upload(tmp_path, "cartpole", message="x")
    with pytest.raises(CheckpointError, match=r"refuses bert/cartpole to this token \(403\)"):
        upload(tmp_path, "bert/cartpole", message="x", token=TOKEN)
    with pytest.raises(CheckpointError, match=r"refuses anna/cartpole to this token \(401\)"):
        upload(tmp_path, "anna/cartpole", message="x", token="hf_another")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"exchange with the Hub at .* failed"):
        upload(tmp_path, "anna/cartpole", message="x", token=TOKEN)


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency) as raised:
        load_policy("hf://anna/cartpole")
    assert raised.value.fix == 'pip install "puffer-policies[hub]"'


def test_the_requests_are_those_for_files(hub, data):
    hub.commit("anna/cartpole", {"model.safetensors": data})
    load_policy("hf://anna/cartpole")
    place = "/anna/cartpole/resolve/main/model.safetensors"
    other = json.dumps([each for each in hub.requests if not each.endswith(place)])
    assert other == "[]"
