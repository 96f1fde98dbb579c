"""Shared by all tests: an empty project folder, and what an old gymnasium leaves out."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import gymnasium
import pytest
from fork_server import Forks, ForkServer
from hub_server import serving
from packaging.version import Version

from puffer_policies.registry import set_default_registry

NEEDED = "1.1"
TOO_OLD = Version(gymnasium.__version__) < Version(NEEDED)
REASON = f"the trainer needs gymnasium >= {NEEDED}, this is {gymnasium.__version__}"

TRAINER_FILES = [
    "test_agent.py",
    "test_bench_peers.py",
    "test_compare.py",
    "test_compile.py",
    "test_devices.py",
    "test_plot.py",
    "test_sweep.py",
    "test_breakout.py",
    "test_env_families.py",
    "test_env_state.py",
    "test_env_faults.py",
    "test_vector.py",
    "test_device_training.py",
    "test_vector_adapters.py",
    "test_vector_envpool.py",
    "test_vector_masks.py",
    "test_vector_parallel.py",
    "test_vector_pufferlib.py",
    "test_evaluate.py",
    "test_faults.py",
    "test_graphs.py",
    "test_hybrid_training.py",
    "test_loggers.py",
    "test_resume.py",
    "test_calls.py",
    "test_masked_training.py",
    "test_memory_tasks.py",
    "test_normalize_training.py",
    "test_optimizers.py",
    "test_prev_action_reward.py",
    "test_options.py",
    "test_part_tasks.py",
    "test_rollout.py",
    "test_run.py",
    "test_seeds.py",
    "test_setup.py",
    "test_signals.py",
    "test_tensor_vecenv.py",
    "test_torch_envs.py",
    "test_trainer.py",
    "test_value_heads.py",
]
collect_ignore = TRAINER_FILES if TOO_OLD else []


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for():
    """Leave it to the system when files reach the disk, as no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Run in an empty folder, with a registry that is discovered there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PUFFER_POLICIES_PLUGINS", "")
    set_default_registry(None)
    yield tmp_path
    set_default_registry(None)


SERVER = pytest.StashKey[ForkServer]()


@pytest.fixture(scope="session")
def forks(request):
    """Return the server that runs Python programs in forks."""
    inputs = getattr(request.config, "workerinput", None)
    server = Forks(inputs["forks"]) if inputs else ForkServer()
    server.wait()
    yield server
    if isinstance(server, ForkServer):
        server.close()


def pytest_configure() -> None:
    """Let Ctrl-C interrupt, also where a shell has started the tests in its background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Spare the collector what is there by now, through which it would walk again and again."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Start one server for all workers of pytest-xdist, while they collect."""
    stash = node.config.stash
    if SERVER not in stash:
        stash[SERVER] = ForkServer()
    node.workerinput["forks"] = stash[SERVER].address


def pytest_unconfigure(config: pytest.Config) -> None:
    """End that server."""
    if SERVER in config.stash:
        config.stash[SERVER].close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Serve an empty Hub, whose files are kept in a cache of this test."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def pytest_report_header() -> list[str]:
    """Name the files that are left out."""
    return [f"left out, as {REASON}: {', '.join(TRAINER_FILES)}"] if TOO_OLD else []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--exhaustive`` and ``--interop``."""
    parser.addoption(
        "--exhaustive", action="store_true", help="run the tests that are left out for their time"
    )
    parser.addoption(
        "--interop", action="store_true", help="run those in the trainers of others, and no more"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what imports the trainers of others, which takes seconds."""
    is_left_out = collection_path.name == "interop" and not config.getoption("--interop")
    return True if is_left_out else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, and skip the tests that are marked as needing the trainer."""
    with_others = config.getoption("--interop")
    left_out = [
        item
        for item in items
        if bool(item.get_closest_marker("interop")) is not with_others
        or (item.get_closest_marker("exhaustive") and not config.getoption("--exhaustive"))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        if TOO_OLD and item.get_closest_marker("trainer"):
            item.add_marker(pytest.mark.skip(reason=REASON))
