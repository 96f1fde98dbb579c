"""A new package, installed from its wheel: it lists and trains at once.

Its commands in an editable installation, its tests among them, are those of docs/tutorial.md.
"""

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
QUICK = "--train.total-timesteps 512 --eval.episodes 2 --quiet"

pytestmark = pytest.mark.trainer


def run(environment: Environment, command: str, folder: Path) -> str:
    result = environment.run(command, cwd=folder)
    assert result.returncode == 0, f"$ {command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def test_a_package_from_its_wheel_works_and_its_tests_fail_once_it_is_broken(tmp_path, forks):
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
    assert "acme-policies 0.1.0" in run(environment, "puffer-policies show AcmeNet", work)
    policy = "--policy-name acme-policies/AcmeNet --rnn-name LSTMWrapper"
    output = run(environment, f"puffer-policies train CartPole-v1 {policy} {QUICK}", work)
    assert "return" in output

    [nets] = environment.folder.glob("lib/*/site-packages/acme_policies/nets.py")
    nets.write_text(nets.read_text().replace("return hidden\n", "return hidden.detach()\n"))
    result = environment.run("pytest -q -x -p no:cacheprovider -k vector-discrete", cwd=source)
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
