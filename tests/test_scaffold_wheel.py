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


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return an environment with a package from its wheel, and an empty folder to work in."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = make_environment(folder / "env")
    source = write_package("acme-policies", into=folder).folder
    run(environment, "pip wheel --no-deps --no-build-isolation -w dist .", source)
    [wheel] = (source / "dist").glob("*.whl")
    run(environment, f"pip install --no-deps {wheel}", folder)
    return environment, source, tmp_path_factory.mktemp("work")


def test_the_wheel_holds_the_manifest_and_no_tests(installed):
    _, source, _ = installed
    [wheel] = (source / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "acme_policies/registry.toml" in names
    assert {name.split("/")[0] for name in names} == {
        "acme_policies",
        "acme_policies-0.1.0.dist-info",
    }


def test_an_installed_package_is_listed(installed):
    environment, _, work = installed
    assert "AcmeNet" in run(environment, "puffer-policies list", work)
    assert "acme-policies 0.1.0" in run(environment, "puffer-policies show AcmeNet", work)


def test_an_installed_package_passes_the_suite(installed):
    environment, _, work = installed
    output = run(environment, "puffer-policies check acme-policies/AcmeNet --env CartPole-v1", work)
    assert " failed" not in output


def test_a_broken_policy_fails_its_packages_own_tests(tmp_path):
    environment = make_environment(tmp_path / "env")
    source = write_package("acme", into=tmp_path).folder
    nets = source / "src" / "acme" / "nets.py"
    nets.write_text(nets.read_text().replace("return hidden\n", "return hidden.detach()\n"))
    run(environment, "pip install --no-deps -e .", source)
    result = environment.run("pytest -q -x -p no:cacheprovider", cwd=source)
    assert result.returncode == 1, result.stdout[-2000:]


def test_an_installed_package_trains_inside_a_memory(installed):
    """Without one it is trained below."""
    environment, _, work = installed
    names = "--policy-name acme-policies/AcmeNet --rnn-name LSTMWrapper"
    output = run(environment, f"puffer-policies train CartPole-v1 {names} {QUICK}", work)
    assert "return" in output


def test_the_four_commands_work_from_an_empty_folder(tmp_path):
    """`pytest` among them is all tests of the template."""
    environment, work = make_environment(tmp_path / "env"), tmp_path / "work"
    work.mkdir()
    install = "puffer-policies new acme && cd acme && pip install -e . && pytest"
    train = f"puffer-policies train CartPole-v1 --policy-name acme/AcmeNet {QUICK}"
    assert "return" in run(environment, f"{install} && {train}", work)


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
