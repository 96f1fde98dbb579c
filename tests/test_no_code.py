"""Files of strangers run no code: proven by Python's audit hooks, in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from fake_packages import write_files

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.trainer

# A module that is on the path, and would show that it ran. Each file names it in another way.
EVIL = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
NAMES = ("evil:X", "evil.X", "evil:X-v0", "evil", "acme/evil", "LSTMWrapper(evil:X)", "evil()")

PROGRAM = """
import json, os, sys
from pathlib import Path

from puffer_policies import PolicyError, default_registry, load_policy, save_checkpoint
from puffer_policies.agent import Agent
from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors
from puffer_policies.cards.card import read_cards
from puffer_policies.config.load import load_config
from puffer_policies.envs.factory import find_env
from puffer_policies.cli.main import main
from puffer_policies.runs.evaluate import load_trained_policy
from puffer_policies.spaces import spaces_of
from puffer_policies.vector.factory import make_vecenv

names = json.loads(sys.argv[1])
KEY = "puffer_policies"
save_checkpoint("good.safetensors", get_policy("Default", "CartPole-v1"), env="CartPole-v1")
tensors, header = read_tensors("good.safetensors", key=KEY)

ran, allowed = [], tuple(map(os.path.realpath, {prefixes}))

def watch(event, arguments):
    if event == "import" and "evil" in str(arguments[0]):
        ran.append(f"import {{arguments[0]}}")
    elif event in ("os.system", "subprocess.Popen", "os.exec", "pickle.find_class"):
        ran.append(f"{{event}} {{arguments[0]}}")
    elif event == "exec":
        # Code of functions that dataclasses and namedtuples write has a name in angle brackets.
        file = getattr(arguments[0], "co_filename", "<string>")
        if not file.startswith("<") and not os.path.realpath(file).startswith(allowed):
            ran.append(f"exec {{file}}")

sys.addaudithook(watch)

def attempt(function, *arguments):
    try:
        function(*arguments)
    except (PolicyError, SystemExit):
        return
    ran.append(f"accepted: {{function.__name__}}{{arguments}}")

for number, name in enumerate(names):
    attempt(get_policy, name, "CartPole-v1")
    attempt(default_registry().get, name)
    for function in (spaces_of, find_env if ":" in name else make_vecenv, make_vecenv):
        attempt(function, name)
    for key in ("env_name", "policy_name"):
        config = {{"package": "evil", "env_name": "CartPole-v1", "policy_name": "Default"}}
        config[key] = name
        folder = Path(f"run-{{number}}-{{key}}")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        data = {{**json.loads(header), "config": config, "imports": ["evil", name]}}
        if key == "policy_name":
            data["spec"] = {{"name": name, "kwargs": {{}}, "wrappers": []}}
        write_tensors(folder / "latest.safetensors", tensors, header=json.dumps(data), key=KEY)
        (folder / "run.toml").write_text("[base]\\n" + "".join(
            f"{{each}} = {{json.dumps(value)}}\\n" for each, value in config.items()
        ))
        (folder / "run.ini").write_text("[base]\\n" + "".join(
            f"{{each}} = {{value}}\\n" for each, value in config.items()
        ))
        if key == "policy_name":
            attempt(load_policy, folder / "latest.safetensors", "CartPole-v1")
        attempt(load_trained_policy, folder)
        for verb in (["eval", str(folder)], ["train", "--resume", str(folder)],
                     ["train", f"{{folder}}/run.toml"], ["train", f"{{folder}}/run.ini"]):
            if main([*verb, "--train.total-timesteps", "1"] if verb[0] == "train" else verb) == 0:
                ran.append(f"accepted: {{verb}}")

cards = {{"machine": "x", "cards": {{"evil:X": {{"__reduce__": "evil"}}}}}}
Path("cards.json").write_text(json.dumps(cards))
try:
    read_cards(Path("cards.json"))
except Exception:
    pass
for words in (["list"], ["list", "--json"], ["show", "Evil"], ["why", "Evil"], ["configs"],
              ["show", "Default"], ["why", "Around"], ["list", "evil*"]):
    main(words)
print("RESULT", json.dumps(ran))
"""

REGISTRY = """
    schema = 1
    [policies.Evil]
    target = "evil:X"
    [wrappers.Around]
    target = "evil:X"
    [presets.evil-preset]
    policy = "Around(Evil)"
    [alias]
    Nice = "Evil"
    [envs]
    Evil-v0 = "evil"
"""


def test_files_names_and_ids_of_strangers_run_no_code(tmp_path, forks):
    write_files(tmp_path, {"evil.py": EVIL, "registry.toml": REGISTRY})
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, str(ROOT / "puffer_policies")]
    prefixes.append(str(ROOT / "plugins"))
    program = PROGRAM.format(prefixes=repr(prefixes))
    environ = {
        **{key: value for key, value in os.environ.items() if "PUFFER_POLICIES" not in key},
        "PUFFER_POLICIES_PLUGINS": "",
        "HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    path = tmp_path / "program.py"  # beside the module, so that the path leads to it
    path.write_text(program)
    process = forks.run(path, json.dumps(NAMES), cwd=tmp_path, env=environ)
    assert process.returncode == 0, process.stderr[-3000:]
    (line,) = [each for each in process.stdout.splitlines() if each.startswith("RESULT ")]
    assert json.loads(line.removeprefix("RESULT ")) == []
    assert not (tmp_path / "ran").exists()
    assert process.stderr.count("error:") >= 4 * len(NAMES)
