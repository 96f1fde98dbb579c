"""A new package, installed: it lists, passes its own tests and trains at once."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from environments import Environment, make_environment

from puffer_policies.registry.scaffold import FILES, write_package

ROOT = Path(__file__).parent.parent
QUICK = "--train.total-timesteps 1024 --eval.episodes 2 --quiet"

pytestmark = pytest.mark.trainer


def run(environment: Environment, command: str, folder: Path) -> str:
    result = environment.run(command, cwd=folder)
    assert result.returncode == 0, f"$ {command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def test_a_package_from_its_wheel_is_listed_keeps_the_contract_and_trains(tmp_path, forks):
    environment, work = make_environment(tmp_path / "env", forks), tmp_path / "work"
    work.mkdir()
    source = write_package("acme-policies", into=tmp_path).folder
    run(environment, "pip wheel --no-deps --no-build-isolation -w dist .", source)
    [wheel] = (source / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "acme_policies/registry.toml" in names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"acme_policies", "acme_policies-0.1.0.dist-info"}  # and no tests

    run(environment, f"pip install --no-deps {wheel}", work)
    assert "AcmeNet" in run(environment, "puffer-policies list", work)
    assert "acme-policies 0.1.0" in run(environment, "puffer-policies show AcmeNet", work)
    check = "puffer-policies check acme-policies/AcmeNet --env CartPole-v1"
    assert " failed" not in run(environment, check, work)
    policy = "--policy-name acme-policies/AcmeNet --rnn-name LSTMWrapper"
    output = run(environment, f"puffer-policies train CartPole-v1 {policy} {QUICK}", work)
    assert "return" in output


def test_the_four_commands_work_from_an_empty_folder_and_then_a_broken_policy_fails(
    tmp_path, forks
):
    """`pytest` leaves out the spaces that `check` has above."""
    environment, work = make_environment(tmp_path / "env", forks), tmp_path / "work"
    work.mkdir()
    install = "puffer-policies new acme && cd acme && pip install -e . && pytest -k 'not vector'"
    train = f"puffer-policies train CartPole-v1 --policy-name acme/AcmeNet {QUICK}"
    assert "return" in run(environment, f"{install} && {train}", work)

    nets = work / "acme" / "src" / "acme" / "nets.py"
    nets.write_text(nets.read_text().replace("return hidden\n", "return hidden.detach()\n"))
    result = environment.run("pytest -q -x -p no:cacheprovider", cwd=work / "acme")
    assert result.returncode == 1, result.stdout[-2000:]


def build(target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [archive] = [path for path in folder.iterdir() if path.is_file()]
    return archive


def test_our_wheel_carries_the_template_the_cards_and_the_results(tmp_path):
    names = set(zipfile.ZipFile(build("wheel", tmp_path)).namelist())
    assert {f"puffer_policies/plugins/template/{name}" for name in FILES} <= names
    assert {f"puffer_policies/docs/{name}" for name in ("cards.json", "results.jsonl")} <= names


def test_our_source_archive_carries_the_template(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"plugins/template/{name}" for name in FILES} <= names
