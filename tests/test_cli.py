"""The command line: what it prints, its exit codes, and that a mistake is never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import run

from puffer_policies.cli.config_arguments import split_overrides
from puffer_policies.cli.main import main

pytestmark = pytest.mark.usefixtures("project")


def test_list_shows_policies_and_wrappers(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert all(name in out for name in ("Default", "Convolutional", "LSTMWrapper", "Wrappers"))


def test_list_takes_a_pattern_in_any_case(capsys):
    _, out, _ = run(capsys, "list", "*conv*")
    assert "Convolutional" in out
    assert "Default" not in out


def test_list_of_nothing_says_so(capsys):
    code, out, _ = run(capsys, "list", "zzz")
    assert code == 0
    assert "Nothing matches 'zzz'" in out


def test_list_as_json_is_data(capsys):
    _, out, _ = run(capsys, "list", "--json")
    names = {row["name"]: row for row in json.loads(out)["names"]}
    assert names["LSTMWrapper"]["kind"] == "wrapper"
    assert names["Default"]["distribution"] == "puffer-policies"


def test_list_can_show_where_names_come_from(capsys):
    _, out, _ = run(capsys, "list", "Default", "--source")
    assert "puffer_policies.zoo.mlp:Default" in out
    assert "registry.toml:" in out


def test_list_fits_gives_each_refusal_a_reason(capsys):
    _, out, _ = run(capsys, "list", "--fits", "CartPole-v1", "--json")
    judged = {row["name"]: row for row in json.loads(out)}
    assert judged["Default"]["fits"]
    assert judged["Convolutional"]["reasons"]


def test_show_prints_record_signature_and_origin(capsys):
    _, out, _ = run(capsys, "show", "Convolutional")
    assert "framestack=None" in out
    assert "puffer-policies 0" in out


def test_show_counts_parameters_for_an_env(capsys):
    _, out, _ = run(capsys, "show", "Default", "--env", "CartPole-v1", "--json")
    assert json.loads(out)["parameters"]["total"] == 1027


def test_show_puts_a_wrapper_around_default(capsys):
    _, out, _ = run(capsys, "show", "LSTMWrapper", "--env", "CartPole-v1", "--json")
    assert json.loads(out)["parameters"]["parts"] == {"policy": 1027, "core": 132096}


def test_why_explains_an_alias(capsys):
    code, out, _ = run(capsys, "why", "Policy")
    assert code == 0
    assert "alias of 'Default'" in out


def test_why_of_an_unknown_name_is_a_negative_answer(capsys):
    code, out, _ = run(capsys, "why", "Defualt")
    assert code == 1
    assert "Did you mean 'Default'" in out


def test_doctor_finds_nothing_wrong_with_the_built_ins(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "0 problems" in out


def test_doctor_reports_what_can_not_be_imported(capsys, project):
    (project / "registry.toml").write_text(
        'schema = 1\n[policies.Bad]\ntarget = "no_such_module_here:Bad"\n'
    )
    code, out, _ = run(capsys, "doctor", "--json")
    found = {row["subject"]: row for row in json.loads(out)}
    assert code == 1
    assert found["project/Bad"]["verdict"] == "broken"


def test_a_policy_beside_a_projects_registry_file_is_built(capsys, project, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (project / "my_project_nets.py").write_text(
        "from puffer_policies.models import Default\nclass Mine(Default):\n    pass\n"
    )
    (project / "registry.toml").write_text(
        'schema = 1\n[policies.Mine]\ntarget = "my_project_nets:Mine"\n'
    )
    code, out, err = run(capsys, "show", "Mine", "--env", "CartPole-v1", "--json")
    assert code == 0, err
    assert json.loads(out)["qualified_name"] == "project/Mine"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["show", "Defualt"], "Did you mean 'Default'"),
        (["lsit"], "Did you mean 'list'"),
        (["list", "--fits", "CartPoel-v1"], "CartPole-v1"),
        (["show", "Convolutional", "--env", "CartPole-v1"], "does not fit"),
        (["list", "--nonsense"], "unrecognized"),
        (["eval", "nothing.safetensors"], "nothing.safetensors"),
        (["train", "CartPoel-v1"], "CartPole-v1"),
        (["train", "CartPole-v1", "--train.learning-rat", "1"], "learning"),
        (["train", "CartPole-v1", "--train.learning-rate", "fast"], "fast"),
        (["train", "CartPole-v1", "--policy-name", "Defualt"], "Did you mean 'Default'"),
        (["train", "CartPole-v1", "--policy-name", "Convolutional"], "does not fit"),
        (["train", "CartPole-v1", "--policy.hiden-size", "3"], "hidden_size"),
        (["train", "no_such_file.toml"], "no_such_file.toml"),
    ],
)
@pytest.mark.trainer
def test_a_mistake_is_one_message_and_exit_code_2(capsys, argv, expected):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schema = 1\n[policies.X\n", "registry.toml:2"),
        ('schema = 1\n[policies.X]\ntraget = "a:B"\n', "registry.toml:3"),
    ],
    ids=["malformed", "unknown key"],
)
def test_a_wrong_registry_file_names_the_line(capsys, project, text, expected):
    (project / "registry.toml").write_text(text)
    code, _, err = run(capsys, "list")
    assert code == 2
    assert expected in err


@pytest.mark.trainer
def test_a_wrong_config_file_names_the_line(capsys, project):
    (project / "run.toml").write_text('[base]\nenv_name = "CartPole-v1"\n[train]\ngama = 0.9\n')
    code, _, err = run(capsys, "train", "run.toml")
    assert code == 2
    assert "run.toml:4" in err
    assert "gamma" in err


def test_traceback_shows_the_whole_error():
    with pytest.raises(Exception, match="Nope"):
        main(["show", "Nope", "--traceback"])


@pytest.mark.trainer
def test_train_and_eval_agree(capsys, project):
    quick = ["--train.total-timesteps", "1024", "--eval.episodes", "4", "--json"]
    code, out, _ = run(capsys, "train", "CartPole-v1", *quick)
    assert code == 0
    note, *updates, trained = map(json.loads, out.splitlines())
    assert "4,096 steps, not 1,024" in note["note"]
    assert [each["epoch"] for each in updates] == [1]
    code, out, _ = run(capsys, "eval", trained["folder"], "--json")
    assert code == 0
    assert json.loads(out)["mean"] == trained["evaluation"]["mean"]


def test_flags_of_a_config_may_stand_before_its_name():
    words = ["train", "--train.gamma", "0.9", "--env-name=X", "cartpole", "--rnn-name", "None"]
    left, overrides = split_overrides(words, ["--quiet", "--resume"])
    assert left == ["train", "cartpole"]
    assert overrides == ["--train.gamma=0.9", "--env-name=X", "--rnn-name=None"]
    words = ["train", "--resume", "folder", "--train.no-anneal-lr", "cartpole", "--train.gamma"]
    left, overrides = split_overrides(words, ["--quiet", "--resume"])
    assert left == ["train", "--resume", "folder", "cartpole"]
    assert overrides == ["--train.no-anneal-lr", "--train.gamma"]


@pytest.mark.trainer
def test_a_run_is_resumed_by_its_folder_alone(capsys, project):
    quick = ["--train.total-timesteps", "8192", "--eval.episodes", "4", "--json"]
    _, out, _ = run(capsys, "train", "CartPole-v1", "--policy.hidden-size", "8", *quick)
    folder = json.loads(out.splitlines()[-1])["folder"]
    more = ["--train.total-timesteps", "12288", "--json"]
    code, out, _ = run(capsys, "train", "--resume", folder, *more)
    assert code == 0
    resumed = json.loads(out.splitlines()[-1])
    assert (resumed["steps"], resumed["evaluation"]["episodes"]) == (12288, 4)
    assert resumed["folder"] == folder
    code, _, err = run(capsys, "train", "--resume", "nowhere")
    assert (code, "nowhere" in err) == (2, True)


def test_looking_imports_no_torch(project):
    code = (
        "import sys; from puffer_policies.cli.main import main\n"
        "for argv in (['list'], ['show', 'Default'], ['why', 'Default'], ['list', '--json']):\n"
        "    assert main(argv) == 0\n"
        "    heavy = {'torch', 'numpy', 'gymnasium'} & set(sys.modules)\n"
        "    assert not heavy, (argv, heavy)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_help_of_every_verb_needs_nothing_heavy(project):
    code = (
        "import sys; from puffer_policies.cli.parser import VERBS, make_parser\n"
        "for verb, text in VERBS.items():\n"
        "    parser, verbs = make_parser([verb])\n"
        "    help = verbs.choices[verb].format_help()\n"
        "    assert text[1:] in ' '.join(help.split()) and '--json' in help, help\n"
        "heavy = {'torch', 'numpy', 'gymnasium'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m puffer_policies list | head -n 1 > /dev/null"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
