"""The code in README and docs runs: each page from top to bottom, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from environments import make_environment, write_commands
from hub_server import TOKEN, serving

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|;|//) (\S+\.(?:py|ini|toml|c))\n")


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text())


def is_for_later(name: str, text: str, page: Path) -> bool:
    """Tell a file of a package, a program that a console block runs, and a module to import."""
    imported = re.search(rf"^(?:import|from) {Path(name).stem}\b", page.read_text(), re.MULTILINE)
    return "/" in name or "if __name__" in text or bool(imported)


def script(page: Path) -> str:
    """Return the page as one program: named blocks become files, console blocks are run."""
    parts = [f"import pathlib, sys; sys.path.append({str(ROOT / 'tests')!r})"]
    parts.append("import console")
    for language, text in blocks(page):
        named = FILE_NAME.match(text)
        if named:
            parts.append(f"pathlib.Path({named[1]!r}).write_text({text!r})")
        if language == "python" and not (named and is_for_later(named[1], text, page)):
            parts.append(text)
        if language == "console":
            parts.append(f"console.run({text!r})")
    return "\n".join(parts)


def installs(page: Path) -> bool:
    return any(language == "console" and "pip install" in text for language, text in blocks(page))


def asks_the_hub(page: Path) -> bool:
    return any("hf://" in text for language, text in blocks(page) if language == "console")


@pytest.fixture(scope="module")
def commands(tmp_path_factory, forks):
    """Return a folder with our command in it."""
    folder = tmp_path_factory.mktemp("bin")
    write_commands(folder, forks, python=Path(sys.executable))
    return folder


@pytest.fixture
def variables(request, commands, forks, tmp_path):
    """Return the shell variables for a page; one that installs has an environment of its own."""
    page = request.getfixturevalue("page")
    if installs(page):
        yield make_environment(tmp_path / "env", forks).variables
        return
    variables = {**os.environ, "PATH": os.pathsep.join([str(commands), os.environ["PATH"]])}
    if not asks_the_hub(page):
        yield variables
        return
    with serving() as hub:
        place = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hub")}
        yield {**variables, **place, "HF_TOKEN": TOKEN}


OPTIONAL = {
    "import onnxruntime": ("onnxruntime", "the extra export"),
    "import ray": ("ray", "the extra rllib"),
    "from pufferlib import": ("pufferlib", "make test-pufferlib"),
}
"""Lines of pages, with the package that they need and what brings it."""

WITH_CODE = [
    pytest.param(page, marks=[pytest.mark.interop] if page.parent.name == "interop" else [])
    for page in PAGES
    if blocks(page)
]


@pytest.mark.trainer
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page, variables, forks, tmp_path):
    if "$ cc " in page.read_text() and shutil.which("cc") is None:
        pytest.skip("no C compiler: there is no cc")
    for line, (package, source) in OPTIONAL.items():
        if line in page.read_text():
            pytest.importorskip(package, reason=f"{source} brings {package}")
    program = tmp_path / "page_of_docs.py"
    program.write_text(script(page))
    environ = {**variables, "PYTHONPATH": str(tmp_path)}
    process = forks.run(program, cwd=tmp_path, env=environ)
    output = f"{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    assert process.returncode == 0, f"{page.name}\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_toml_on_the_page_is_toml(page):
    for language, text in blocks(page):
        if language == "toml":
            tomllib.loads(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
