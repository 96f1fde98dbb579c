"""Writes a new plug-in package from the template, which is a working package itself."""

from __future__ import annotations

import keyword
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from puffer_policies.errors import ConfigError
from puffer_policies.files import shipped_file
from puffer_policies.registry.names import LAYER_NAMES, distribution_offence, normalize
from puffer_policies.registry.packages import installed_version
from puffer_policies.registry.source import locate_package

TEMPLATE = "plugins/template"
FILES = (
    "pyproject.toml",
    "README.md",
    ".gitignore",
    ".github/workflows/test.yml",
    "src/my_policies/__init__.py",
    "src/my_policies/nets.py",
    "src/my_policies/registry.toml",
    "tests/test_conformance.py",
)
"""The template's files. Listed, so that what tests and builds leave in a checkout is not copied."""

_TOKENS = re.compile("my-policies|my_policies|MyNet")
_LONGEST = 64
"""File systems end names at 255 bytes; those of wheels hold the version and more besides."""
_GENERIC_ENDINGS = ("policies", "policy", "nets", "net")


@dataclass(frozen=True, slots=True)
class PackageNames:
    """The names of the parts of a new package."""

    distribution: str
    """The distribution, such as ``acme-policies``; the folder, too."""
    package: str
    """The package to import, such as ``acme_policies``."""
    policy: str
    """The class, such as ``AcmeNet``."""

    def fill(self, text: str) -> str:
        """Return a text or path of the template with these names in it."""
        names = {
            "my-policies": self.distribution,
            "my_policies": self.package,
            "MyNet": self.policy,
        }
        return _TOKENS.sub(lambda match: names[match[0]], text)


@dataclass(frozen=True, slots=True)
class Scaffold:
    """A new package on the disk."""

    names: PackageNames
    folder: Path
    files: tuple[str, ...]
    """Relative to the folder."""


def derive_names(name: str) -> PackageNames:
    """Derive a package's names from one: ``acme``, or ``acme-policies``.

    Raises:
        ConfigError: a package can't have this name, or something else has it already.
    """
    distribution = normalize(name)
    package = distribution.replace("-", "_")
    offence = (
        distribution_offence(name) or _package_offence(package) or _owner(distribution, package)
    )
    if offence:
        raise ConfigError(
            f"A package can't be called {name!r}: {offence}.",
            fix="Take a name of letters, digits and '-' that is yours, such as 'acme-policies'.",
        )
    return PackageNames(distribution, package, _policy_name(distribution))


def write_package(name: str, *, into: Path) -> Scaffold:
    """Write the package `name` as a new folder of `into`: the whole of it, or nothing.

    Raises:
        ConfigError: a name that can't be, a folder that holds something already, or a write
            that failed.
    """
    names = derive_names(name)
    folder = into / names.distribution
    _require_free(into, folder)
    texts = {names.fill(path): names.fill(_template_text(path)) for path in FILES}
    try:
        _write_at_once(texts, folder)
    except OSError as error:
        raise ConfigError(f"{folder} could not be written: {error}.") from error
    return Scaffold(names, folder, tuple(texts))


def _package_offence(package: str) -> str:
    if len(package) > _LONGEST:
        return f"it has {len(package)} characters, and {_LONGEST} are enough"
    if not package.isidentifier():
        return f"{package!r} can't be imported, it should begin with a letter"
    if keyword.iskeyword(package):
        return f"{package!r} is a keyword of Python"
    if package in sys.stdlib_module_names:
        return f"{package!r} is a module of Python's own"
    return ""


def _owner(distribution: str, package: str) -> str:
    """Say what has the name already, or return ''."""
    if distribution in LAYER_NAMES.values():
        return f"the registry calls something else {distribution!r}"
    version = installed_version(distribution)
    if version is not None:
        return f"{distribution} {version} is installed"
    # Two packages of one name shadow each other, whatever their distributions are called.
    place = locate_package(package)
    # Under `python -m`, the working directory is on the path, and with it an empty target folder.
    if place is None or place.absolute() == Path.cwd() / package:
        return ""
    return f"there is a package {package!r} in {place.parent}"


def _policy_name(distribution: str) -> str:
    words = distribution.split("-")
    # AcmeNet, not AcmePoliciesNet.
    while len(words) > 1 and words[-1] in _GENERIC_ENDINGS:
        words.pop()
    return "".join(word.capitalize() for word in words) + "Net"


def _require_free(into: Path, folder: Path) -> None:
    if into.exists() and not into.is_dir():
        raise ConfigError(f"{into} is a file, not a folder to write into.")
    if not into.is_dir():
        raise ConfigError(f"There is no folder {into} to write into.", fix=f"mkdir -p {into}")
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if folder.is_symlink() or (folder.exists() and not is_empty):
        raise ConfigError(
            f"{folder} is there already; nothing was written.",
            fix="Take another name, or another folder with --into.",
        )


def _template_text(name: str) -> str:
    path = shipped_file(f"{TEMPLATE}/{name}")
    if path is None:
        raise ConfigError(
            f"The template of new packages lacks {name}.", fix="Install puffer-policies again."
        )
    return path.read_text(encoding="utf-8")


def _write_at_once(texts: dict[str, str], folder: Path) -> None:
    """Write beside `folder`, then rename: whatever breaks off leaves no trace of it."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
        staged = Path(staging, folder.name)
        for name, text in texts.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # The same bytes on every system: the package may be committed on another.
            path.write_text(text, encoding="utf-8", newline="\n")
        # A folder that came to hold something in the meantime makes this fail, not overwrite.
        staged.rename(folder)
