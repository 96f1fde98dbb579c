"""Sharing: model cards, and pushes of runs and files to a stand-in of the Hub."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from commands import run
from hub_server import TOKEN

from puffer_policies import export_policy, load_policy, push_to_hub
from puffer_policies.assembly.checkpoint import read_checkpoint, save_checkpoint
from puffer_policies.assembly.factory import get_policy
from puffer_policies.config.command import training_command
from puffer_policies.config.load import load_config
from puffer_policies.errors import CheckpointError
from puffer_policies.runs.model_card import read_card
from puffer_policies.spaces import spaces_of

RESULTS = {
    "mean": 487.5,
    "std": 12.25,
    "min": 450.0,
    "max": 500.0,
    "length": 487.5,
    "episodes": 4,
    "episodes_asked": 4,
    "seed": 10_000,
    "deterministic": True,
}
UPDATE = {"SPS": 100.0, "agent_steps": 4096}


@pytest.fixture(scope="module")
def policy():
    return get_policy("LSTMWrapper(Default(hidden_size=8))", spaces_of("CartPole-v1"))


@pytest.fixture
def folder(project, policy):
    """Return the folder of a finished run, as `train` leaves it."""
    flags = ["--policy.hidden-size", "8", "--train.seed", "3", "--train.data-dir", "/home/anna"]
    config = load_config("cartpole_lstm", [*flags, "--log.wandb", "secret"]).to_args()
    folder = project / "run"
    folder.mkdir()
    for name, training in {
        "latest": {"global_step": 4096, "epoch": 2},
        "best": {"mean_return": 99.5, "episodes": 100, "global_step": 2048, "epoch": 1},
    }.items():
        path = folder / f"{name}.safetensors"
        save_checkpoint(path, policy, env="CartPole-v1", config=config, training=training)
    (folder / "trainer.safetensors").write_bytes(b"large")
    (folder / "config.json").write_text(json.dumps(config))
    write_metrics(folder, UPDATE, {"evaluation": RESULTS})
    return folder


def write_metrics(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_has_the_field_s_front_matter(folder, capsys):
    status, out, _ = run(capsys, "card", str(folder))
    assert (status, out.split()[1]) == (0, str(folder / "README.md"))
    data = front_matter((folder / "README.md").read_text())
    assert data["library_name"] == "puffer-policies"
    assert data["tags"][:2] == ["CartPole-v1", "deep-reinforcement-learning"]
    [model] = data["model-index"]
    assert model["name"] == "LSTMWrapper(Default)"
    [result] = model["results"]
    assert result["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    assert result["metrics"][0]["type"] == "mean_reward"
    assert result["metrics"][0]["value"] == "487.50 +/- 12.25"


def test_the_hub_s_own_reader_takes_the_front_matter(folder):
    hub = pytest.importorskip("huggingface_hub")
    text = read_card(folder / "latest.safetensors", location="hf://anna/x").text()
    [result] = hub.ModelCard(text).data.eval_results
    assert (result.dataset_type, result.metric_type) == ("CartPole-v1", "mean_reward")


def test_a_card_says_command_seed_results_and_use(folder, capsys):
    _, text, _ = run(capsys, "card", str(folder), "-o", "-", "--repo", "anna/cartpole")
    for words in (
        "puffer-policies train cartpole_lstm --train.seed 3 --policy.hidden-size=8\n",
        "- seed: 3",
        "- steps: 4,096",
        "| 487.50 ± 12.25 | 450.00, 500.00 | 487.5 | 4 | 10000 | the likeliest ones |",
        "puffer-policies eval hf://anna/cartpole\n",
        "pip install 'puffer-policies[hub]'",
        'Agent.load("hf://anna/cartpole")',
        "- `model.safetensors`:",
    ):
        assert words in text


def test_results_are_those_of_the_checkpoint_itself(folder, capsys):
    _, text, _ = run(capsys, "card", str(folder), "--best", "-o", "-")
    assert "No evaluation is recorded" in text
    assert "model-index" not in front_matter(text)
    write_metrics(folder, {"evaluation": RESULTS}, UPDATE)  # the run went on
    status, out, _ = run(capsys, "card", str(folder))
    assert (status, "none is recorded: --evaluate plays" in out) == (0, True)


@pytest.mark.trainer
def test_results_can_be_played_for_a_card(folder, capsys):
    config = load_config("cartpole_lstm", ["--eval.episodes", "2"])
    args = {**config.to_args(), "policy": {"hidden_size": 8}}
    policy = load_policy(folder)
    path = save_checkpoint(folder / "a.safetensors", policy, env="CartPole-v1", config=args)
    _, text, _ = run(capsys, "card", str(path), "-o", "-", "--evaluate")
    value = front_matter(text)["model-index"][0]["results"][0]["metrics"][0]["value"]
    _, out, _ = run(capsys, "eval", str(path), "--json")
    assert value.split()[0] == f"{json.loads(out)['mean']:.2f}"


@pytest.mark.parametrize(
    ("config", "training"),
    [
        ({"train": [1]}, {}),
        ({"train": {"seed": "x"}, "unknown": 1}, {"a\n# b": "c\n# d", "e": [None, {}]}),
        ({}, {"evaluation": {**RESULTS, "mean": 10**400}}),
        ({}, {"evaluation": {**RESULTS, "std": None}}),
        ({}, {"evaluation": 3}),
    ],
)
def test_a_card_is_made_of_a_stranger_s_header(project, policy, config, training, capsys):
    path = project / "m.safetensors"
    env = {"env_name": "X-v0"}
    save_checkpoint(path, policy, env="CartPole-v1", config=env | config, training=training)
    status, text, err = run(capsys, "card", str(path), "-o", "-")
    assert status == 0, err
    assert "No evaluation is recorded" in text
    assert "config.json" not in text  # which is neither beside it nor in a repo
    assert "\n# b" not in text
    assert "\n# d" not in text


def test_a_card_replaces_cards_alone(folder, capsys):
    (folder / "README.md").write_text("# Mine\n")
    status, _, err = run(capsys, "card", str(folder))
    assert (status, "not a card that this wrote" in err) == (2, True)
    run(capsys, "card", str(folder), "-o", str(folder / "card.md"))
    status, _, _ = run(capsys, "card", str(folder), "-o", str(folder / "card.md"))
    assert (status, (folder / "README.md").read_text()) == (0, "# Mine\n")
    status, _, err = run(capsys, "card", str(folder / "best.safetensors"))
    assert (status, "Say where: -o FILE" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cartpole_novel", ["--rnn-name=None"]),
        (
            "acrobot",
            ["--train.gamma=0.9", "--policy.sizes=[1, [2]]", "--env.render-mode=rgb_array"],
        ),
        ("Other-v0", ["--train.anneal-lr=False", "--train.target-kl=0.02"]),
    ],
)
def test_the_command_of_a_config_trains_by_an_equal_one(name, flags):
    config = load_config(name, [*flags, "--train.data-dir", "elsewhere"])
    words = training_command(config, ["my_envs"])
    assert words[:5] == ["puffer-policies", "train", "--import", "my_envs", name]
    assert sorted(words[7:]) == sorted(flags)
    again = load_config(name, [*words[5:], "--train.data-dir", "elsewhere"])
    assert again == config


def test_a_config_that_no_flags_give_has_no_command():
    config = load_config("Other-v0", ["--env.size", "'1'"])
    assert training_command(config) == []


def test_a_run_is_pushed_and_loads_as_it_was(folder, policy, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("replay.mp4", "latest.onnx", "best.onnx", "notes.txt", ".env"):
        (folder / name).write_bytes(b"x")
    status, out, err = run(capsys, "push", str(folder), "anna/cartpole", "--private")
    assert status == 0, err
    commit, files = hub.files("anna/cartpole")
    assert f"hf://anna/cartpole@{commit}" in out
    assert sorted(files) == [
        *("README.md", "config.json", "model.onnx", "model.safetensors", "replay.mp4"),
        "results.json",
    ]
    assert "anna/cartpole" in hub.private
    assert json.loads(files["results.json"]) == RESULTS
    for data in files.values():
        assert b"/home/anna" not in data
        assert b"secret" not in data
    observations = torch.rand(5, 4)
    expected = policy(observations, {"episode_start": torch.ones(5, dtype=torch.bool)})
    again = load_policy(f"hf://anna/cartpole@{commit}")
    answers = again(observations, {"episode_start": torch.ones(5, dtype=torch.bool)})
    torch.testing.assert_close(answers, expected, rtol=0, atol=0)
    header = read_checkpoint("hf://anna/cartpole").header
    assert header.training["evaluation"] == RESULTS
    # The file says by itself what its card says.
    _, text, _ = run(capsys, "card", "hf://anna/cartpole", "-o", "-")
    assert "487.50 ± 12.25" in text


def test_a_push_takes_away_what_belonged_to_the_push_before(folder, hub):
    (folder / "latest.onnx").write_bytes(b"x")
    first = push_to_hub(folder, "anna/cartpole", token=TOKEN)
    assert push_to_hub(folder, "anna/cartpole", token=TOKEN, best=True) != first
    files = hub.files("anna/cartpole")[1]
    assert "model.onnx" not in files
    assert "results.json" not in files
    assert load_policy(first) is not None


def test_an_export_that_is_older_than_the_weights_is_not_sent(folder, hub):
    path = folder / "latest.onnx"
    path.write_bytes(b"x")
    before = (folder / "latest.safetensors").stat().st_mtime - 1
    os.utime(path, (before, before))
    with pytest.raises(CheckpointError, match=r"latest.onnx in .* was made before latest.safeten"):
        push_to_hub(folder, "anna/cartpole", token=TOKEN)
    assert hub.requests == []
    push_to_hub(folder, "anna/cartpole", token=TOKEN, best=True)


def test_a_single_file_is_pushed_with_the_exports_of_its_name(project, policy, hub):
    path = save_checkpoint(project / "pole.safetensors", policy, env="CartPole-v1")
    for name in ("pole.onnx", "pole.mp4", "other.onnx"):
        (project / name).write_bytes(b"x")
    push_to_hub(path, "anna/pole", token=TOKEN)
    files = hub.files("anna/pole")[1]
    assert sorted(files) == ["README.md", "model.onnx", "model.safetensors", "replay.mp4"]
    assert "LSTMWrapper(Default)" in files["README.md"].decode()


def test_an_export_to_c_is_pushed_under_the_names_of_the_repo(project, hub):
    policy = get_policy("PufferNet(hidden_size=8)", spaces_of("CartPole-v1"))
    path = save_checkpoint(project / "pole.safetensors", policy, env="CartPole-v1")
    export_policy(path, to="c")
    push_to_hub(path, "anna/pole", token=TOKEN)
    files = hub.files("anna/pole")[1]
    names = ["README.md", "model.bin", "model.h", "model.safetensors", "puffernet.h"]
    assert sorted(files) == names
    assert b"model_sizes" in files["model.h"]
    assert files["model.bin"] == (project / "pole.bin").read_bytes()
    assert all(f"- `{name}`:" in files["README.md"].decode() for name in names[1:])
    push_to_hub(save_checkpoint(project / "b", policy, env="CartPole-v1"), "anna/pole", token=TOKEN)
    assert sorted(hub.files("anna/pole")[1]) == ["README.md", "model.safetensors"]


def test_nothing_is_sent_where_a_push_can_t_work(folder, hub, capsys):
    status, _, err = run(capsys, "push", str(folder), "cartpole")
    assert (status, "is not the name of a repo, which is org/name" in err) == (2, True)
    status, _, err = run(capsys, "push", str(folder), "anna/cartpole")
    assert (status, "there is no token" in err) == (2, True)
    status, _, err = run(capsys, "push", str(folder / "none"), "anna/cartpole")
    assert (status, "neither a run nor a checkpoint" in err) == (2, True)
    with pytest.raises(CheckpointError, match=r"not of the kind asked for|damaged"):
        push_to_hub(folder / "trainer.safetensors", "anna/cartpole", token=TOKEN)
    assert hub.requests == []
