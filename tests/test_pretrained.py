"""Pretrained policies: packages bring checkpoints by entry points, and names lead to them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from fake_packages import Site, site_in
from gymnasium import spaces as gym

from puffer_policies import Agent, discover, get_policy, load_policy, set_default_registry
from puffer_policies.assembly.checkpoint import save_checkpoint
from puffer_policies.errors import (
    AmbiguousName,
    CheckpointError,
    IncompatibleSpace,
    PluginError,
    PolicyNotFound,
)
from puffer_policies.registry.doctor import examine
from puffer_policies.spaces import Spaces

SPACES = Spaces(gym.Box(-1, 1, (3,)), gym.Discrete(2))
STACK = "LSTMWrapper(Default(hidden_size=8))"
RESULTS = {
    "mean": 9.5,
    "std": 0.25,
    "min": 9.0,
    "max": 10.0,
    "length": 9.5,
    "episodes": 4,
    "seed": 10_000,
    "deterministic": True,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("policy") / "m.safetensors"
    save_checkpoint(
        path,
        get_policy(STACK, SPACES),
        env=SPACES,
        config={"env_name": "Corridor-v0"},
        training={"evaluation": RESULTS},
    )
    return path.read_bytes()


@pytest.fixture
def site(project, tmp_path):
    with site_in(tmp_path / "site") as site:
        site.folder.mkdir()
        yield site


def install(site: Site, name: str, files: dict[str, bytes], **entries: str) -> None:
    """Install a package that brings checkpoints; `entries` are those of the group."""
    package = name.replace("-", "_")
    site.install(
        name, entry_points={"pretrained": entries}, files={f"{package}/__init__.py": "raise X"}
    )
    for file, content in files.items():
        Path(site.folder, package, file).write_bytes(content)


@pytest.fixture
def acme(site, data):
    """Return the registry with a package that brings one policy, of which nothing is imported."""
    install(site, "acme-zoo", {"a.safetensors": data}, corridor="acme_zoo:a.safetensors")
    registry = discover(plugins=["acme-zoo"], environ={})
    set_default_registry(registry)
    return registry


def test_a_name_leads_to_the_file_wherever_a_checkpoint_is_taken(acme, capsys):
    assert not acme.errors
    observations = torch.rand(5, 3)
    expected = load_policy("pretrained://corridor")(observations)
    again = load_policy("pretrained://acme-zoo/corridor")(observations)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert Agent.load("pretrained://Acme_Zoo/corridor").spaces == SPACES
    status, out, _ = run(capsys, "inspect", "--pretrained", "corridor", "--verify")
    assert (status, "answers as it did" in out) == (0, True)


def test_a_card_says_what_brings_the_file(acme, capsys):
    for name in ("corridor", "Acme_Zoo/corridor"):
        _, text, _ = run(capsys, "card", "--pretrained", name, "-o", "-")
        assert "```sh\npip install acme-zoo\n```" in text


def test_get_policy_builds_a_stack_with_the_weights(acme):
    loaded = load_policy("pretrained://corridor")
    # The size is the file's, as none is asked for.
    policy = get_policy("LSTMWrapper(Default)", SPACES, pretrained="corridor")
    assert policy.spec == loaded.spec
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    given = get_policy("Default", SPACES, wrappers=["LSTMWrapper"], pretrained="corridor")
    assert given.spec == loaded.spec
    assert get_policy(STACK, SPACES, pretrained="pretrained://corridor").spec == loaded.spec


@pytest.mark.parametrize(
    ("policy", "kwargs", "words"),
    [
        ("Default", {}, "is not a puffer-policies/Default: the stack is puffer-policies/LSTMWra"),
        ("GRUWrapper(Default)", {}, "the stack is puffer-policies/LSTMWrapper"),
        (
            "LSTMWrapper(Default)",
            {"hidden_size": 16},
            "hidden_size of puffer-policies/Default is",
        ),
        (
            "LSTMWrapper(Default, num_layers=2)",
            {},
            "num_layers of puffer-policies/LSTMWrapper is",
        ),
    ],
)
def test_weights_of_another_stack_are_refused(acme, policy, kwargs, words):
    with pytest.raises(CheckpointError, match=words):
        get_policy(policy, SPACES, pretrained="corridor", **kwargs)


def test_an_argument_that_is_the_default_of_the_file_is_no_difference(acme):
    get_policy("LSTMWrapper(Default, num_layers=1)", SPACES, pretrained="corridor")


def test_other_spaces_are_refused(acme):
    with pytest.raises(CheckpointError, match="was trained on other spaces"):
        get_policy("LSTMWrapper(Default)", "CartPole-v1", pretrained="corridor")
    with pytest.raises(IncompatibleSpace):
        get_policy("Convolutional", SPACES, pretrained="corridor")


def test_a_name_and_a_path_are_never_taken_for_each_other(acme, project, data):
    (project / "m.safetensors").write_bytes(data)
    with pytest.raises(PolicyNotFound, match="For the file, give Path"):
        get_policy("LSTMWrapper(Default)", SPACES, pretrained="m.safetensors")
    get_policy("LSTMWrapper(Default)", SPACES, pretrained=Path("m.safetensors"))
    with pytest.raises(CheckpointError, match="has this name: pretrained://corridor"):
        load_policy("corridor")


def test_the_name_of_weights_is_not_that_of_a_class(acme, capsys):
    with pytest.raises(PolicyNotFound, match=r"load_policy\('pretrained://corridor'\)"):
        get_policy("corridor", SPACES)
    status, out, _ = run(capsys, "why", "corridor")
    assert (status, "is a pretrained policy of acme-zoo 1.0" in out) == (0, True)


def test_a_missing_name_is_told(acme):
    with pytest.raises(PolicyNotFound, match="Did you mean 'corridor'"):
        load_policy("pretrained://coridor")
    with pytest.raises(PolicyNotFound, match="Did you mean 'acme-zoo/corridor'"):
        load_policy("pretrained://acme-zoo/x")
    with pytest.raises(PolicyNotFound, match="pip install other-zoo"):
        load_policy("pretrained://other-zoo/abc")
    set_default_registry(discover(plugins=[], environ={}))
    with pytest.raises(PolicyNotFound, match="pip install puffer-policies-pretrained"):
        load_policy("pretrained://cartpole")


def test_a_second_package_makes_a_bare_name_ambiguous_and_never_another(site, acme, data):
    install(site, "bolt", {"b.safetensors": data}, corridor="bolt:b.safetensors")
    set_default_registry(discover(plugins=["acme-zoo", "bolt"], environ={}))
    with pytest.raises(AmbiguousName, match="acme-zoo/corridor, bolt/corridor"):
        load_policy("pretrained://corridor")
    load_policy("pretrained://bolt/corridor")


def test_a_blocked_package_brings_nothing(site, acme, project):
    path = project / "registry.toml"
    path.write_text('schema = 1\n[block]\ndistributions = ["acme-zoo"]\n')
    registry = discover(environ={"PUFFER_POLICIES_REGISTRY": str(path)}, plugins=["acme-zoo"])
    assert registry.pretrained == {}


def test_entries_that_lead_nowhere_are_reported_and_break_nothing_else(site, data, capsys):
    names = {"good": "a", "gone": "no", "cut": "c", "1bad": "a"}
    entries = {name: f"acme:{file}.safetensors" for name, file in names.items()}
    files = {"a.safetensors": data, "c.safetensors": data[:50]}
    install(site, "acme", files, **entries, pickle="acme:a.pkl")
    registry = discover(plugins=["acme"], environ={})
    set_default_registry(registry)
    assert "'1bad' should be of ASCII letters" in str(registry.errors[0])
    broken = {f.subject for f in examine(registry) if f.verdict == "broken"}
    assert broken >= {"acme/gone", "acme/pickle"}
    with pytest.raises(PluginError, match=r"the checkpoint 'acme:no.safetensors' was not found"):
        load_policy("pretrained://gone")
    status, out, _ = run(capsys, "list", "--pretrained", "--json")
    rows = {each["name"]: each for each in json.loads(out)}
    assert (status, rows["good"]["evaluation"]) == (0, RESULTS)
    assert "is damaged" in rows["cut"]["error"]
    assert "package:name.safetensors" in rows["pickle"]["error"]


def test_the_list_shows_env_policy_and_return(acme, capsys):
    _, out, _ = run(capsys, "list", "--pretrained")
    assert out.splitlines()[2].split() == [
        *("corridor", "Corridor-v0", "LSTMWrapper(Default)", "9.50", "±", "0.25", "635", "acme-zoo")
    ]
    _, out, _ = run(capsys, "list", "--pretrained", "x*")
    assert out.startswith("Nothing matches 'x*'.")


def test_one_checkpoint_is_named(acme, capsys):
    for words in ([], ["x.safetensors", "--pretrained", "corridor"]):
        status, _, err = run(capsys, "inspect", *words)
        assert (status, "Name one checkpoint" in err) == (2, True)


def test_a_registry_in_a_worker_has_the_same_names(acme):
    again = pickle.loads(pickle.dumps(acme))
    assert again.pretrained_policy("corridor") == acme.pretrained_policy("corridor")


def test_lists_and_cards_import_neither_torch_nor_the_package(acme, site):
    program = (
        f"import sys; sys.path.insert(0, {str(site.folder)!r})\n"
        "from puffer_policies.cli.main import main\n"
        "code = main(['list', '--pretrained']) or main(['card', '--pretrained=corridor', '-o-'])\n"
        "sys.exit(code or 'torch' in sys.modules or 'acme_zoo' in sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PUFFER_POLICIES_PLUGINS": "acme-zoo", "PYTHONPATH": str(Path.cwd())},
    )
    assert (process.returncode, "model-index" in process.stdout) == (0, True), process.stderr
