"""Fills a registry with everything there is: built-in names, registry.toml files, packages."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from puffer_policies.errors import (
    AmbiguousName,
    ConfigError,
    NameTaken,
    PluginError,
    PolicyError,
    did_you_mean,
)
from puffer_policies.files import shipped_file, user_path
from puffer_policies.registry.catalog import Catalog, read_catalog
from puffer_policies.registry.explain import label
from puffer_policies.registry.names import BUILTIN, LAYER_NAMES, normalize
from puffer_policies.registry.packages import (
    MANIFEST,
    Package,
    installed_version,
    manifest_path,
    packages_with_policies,
)
from puffer_policies.registry.plugins import Plugin, PluginHooks, admit, timing_since
from puffer_policies.registry.records import Layer, Provenance, Record
from puffer_policies.registry.registry import Registry
from puffer_policies.registry.trust import FILE_NAME, config_folder, distrust_of
from puffer_policies.tomlfile import read_toml

REGISTRY_VARIABLE = "PUFFER_POLICIES_REGISTRY"
PLUGINS_VARIABLE = "PUFFER_POLICIES_PLUGINS"
STRICT_VARIABLE = "PUFFER_POLICIES_STRICT"


def discover(
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    strict: bool = False,
    plugins: Iterable[str] | None = None,
) -> Registry:
    """Return a fresh registry of everything that is installed and written in files.

    Args:
        environ: where the variables are read; the process's environment if None.
        cwd: where the search for a project's registry.toml starts; the working directory if None.
        strict: raise the errors of plug-ins, instead of keeping them in ``errors``; also by
            ``PUFFER_POLICIES_STRICT=1``.
        plugins: the distributions to load; all if None, and ``PUFFER_POLICIES_PLUGINS`` is not set.

    Raises:
        ConfigError: the user's or the project's registry.toml is wrong.
        NameTaken: one of them takes a name without ``override``.
        PluginError: a plug-in failed, clashed or misspelled a hook, and `strict` is on.
    """
    registry = Registry()
    fill(registry, environ=environ, cwd=cwd, strict=strict, plugins=plugins)
    return registry


def fill(
    registry: Registry,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    strict: bool = False,
    plugins: Iterable[str] | None = None,
) -> None:
    """Fill an empty registry; `discover` describes the arguments and errors."""
    start = time.perf_counter()
    environ = os.environ if environ is None else environ
    strict = strict or environ.get(STRICT_VARIABLE, "") not in ("", "0")
    # Files first: what they block is not imported below.
    catalogs = _read_files(registry, environ, _working_folder() if cwd is None else Path(cwd))
    for catalog in catalogs:
        with _naming_the_way_out(catalog.was_searched):
            catalog.add_to(registry)
    _add_packages(registry, _enabled_distributions(plugins, environ), strict)
    _require_versions(registry, catalogs)
    registry.load_seconds = time.perf_counter() - start
    if strict:
        _raise_problems(registry)


# -- files -------------------------------------------------------------------------------------


def _read_files(registry: Registry, environ: Mapping[str, str], cwd: Path) -> list[Catalog]:
    """Read the built-in manifest, the user's file and the project's, in this order."""
    catalogs = [_read_builtin_file()]
    user, project = _user_file(environ), _project_file(registry, environ, cwd)
    if user is not None:
        catalogs.append(_read_own_file(user, Layer.USER))
    # Below the user's folder, the search for a project's file ends at the user's own.
    if project is not None and not (user and os.path.samefile(project, user)):
        # A file that a variable names was chosen by the user, whoever it belongs to.
        was_searched = REGISTRY_VARIABLE not in environ
        distrust = distrust_of(project, environ) if was_searched else ""
        with _naming_the_way_out(was_searched):
            catalog = _read_own_file(project, Layer.PROJECT, distrust=distrust)
        catalogs.append(replace(catalog, was_searched=was_searched))
    return catalogs


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"The working folder can't be read: {error}.", fix="cd to a folder that exists."
        ) from error


def _read_builtin_file() -> Catalog:
    path = shipped_file(FILE_NAME)
    assert path is not None, "the wheel and the checkout have it"
    version = installed_version(BUILTIN) or ""
    place = Provenance(layer=Layer.BUILTIN, distribution=BUILTIN, version=version)
    return read_catalog(path, place)


def _read_own_file(path: Path, layer: Layer, *, distrust: str = "") -> Catalog:
    place = Provenance(layer=layer, distribution=LAYER_NAMES[layer], distrust=distrust)
    return read_catalog(path, place, search_path=str(path.parent))


def _user_file(environ: Mapping[str, str]) -> Path | None:
    folder = config_folder(environ)
    # `Path.is_file` raises where a folder may not be entered; a file in there is not there for us.
    is_there = folder is not None and os.path.isfile(folder / FILE_NAME)
    return folder / FILE_NAME if folder and is_there else None


def _project_file(registry: Registry, environ: Mapping[str, str], cwd: Path) -> Path | None:
    value = environ.get(REGISTRY_VARIABLE)
    if value is not None:
        return _file_of_variable(value, cwd) if value.strip() else None
    cwd = cwd.absolute()
    for folder in (cwd, *cwd.parents):
        path = folder / FILE_NAME
        if os.path.isfile(path):
            with _naming_the_way_out():
                is_for_projects = _is_for_projects(registry, path)
            if is_for_projects:
                return path
    return None


@contextlib.contextmanager
def _naming_the_way_out(was_searched: bool = True) -> Iterator[None]:
    """Add to the error of a file that the search has found how to do without it."""
    try:
        yield
    except (ConfigError, NameTaken) as error:
        if not was_searched:
            raise
        way_out = (
            f"If the file is not yours, set {REGISTRY_VARIABLE} to nothing, or to a file of yours."
        )
        raise type(error)(error.problem, fix=f"{error.fix}\n{way_out}".strip()) from error


def _file_of_variable(value: str, cwd: Path) -> Path:
    path = (cwd / user_path(value)).absolute()
    if not os.path.isfile(path):
        raise ConfigError(
            f"{REGISTRY_VARIABLE} names {value!r}, and there is no file {path}.",
            fix=f"Correct it, or set it to nothing to read no project's {FILE_NAME}.",
        )
    return path


def _is_for_projects(registry: Registry, path: Path) -> bool:
    """Tell a project's file from a package's own manifest and from another tool's."""
    data = read_toml(path).data
    if "distribution" in data:
        return False
    if "schema" not in data:
        registry.errors.append(
            PluginError(
                f"{path} has no schema, so it was taken for another tool's file and not read.",
                fix=f"If it is yours, write `schema = 1` as its first line; if not, set "
                f"{REGISTRY_VARIABLE} to nothing.",
                distribution=LAYER_NAMES[Layer.PROJECT],
            )
        )
        return False
    return True


# -- packages ----------------------------------------------------------------------------------


def _enabled_distributions(
    plugins: Iterable[str] | None, environ: Mapping[str, str]
) -> list[str] | None:
    """Return the distributions to load, or None for all."""
    if plugins is None:
        variable = environ.get(PLUGINS_VARIABLE)
        plugins = None if variable is None else variable.split(",")
    if isinstance(plugins, str):
        raise ConfigError(f"plugins should be a list of distributions, got {plugins!r}.")
    return None if plugins is None else [normalize(p.strip()) for p in plugins if p.strip()]


def _add_packages(registry: Registry, enabled: list[str] | None, strict: bool) -> None:
    hooks = PluginHooks(errors=registry.errors, strict=strict)
    registry.hooks = hooks
    packages = [] if enabled == [] else _installed_packages(registry)
    names = [package.distribution for package in packages]
    registry.errors.extend(_absent(name, names) for name in enabled or () if name not in names)
    packages = [p for p in packages if enabled is None or p.distribution in enabled]
    # Who owns a decorated class must be known before any plug-in runs, as it may import another.
    for package in packages:
        registry.packages.update(dict.fromkeys(package.top_level(), package.place("a decorator")))
    for package in packages:
        _add_declared(registry, package)
    for package in packages:
        if not registry.blocks_distribution(package.distribution):
            hooks.plugins += _add_plugins(registry, package)


def _installed_packages(registry: Registry) -> list[Package]:
    count = len(registry.errors)
    packages = packages_with_policies(registry.errors)
    if len(registry.errors) > count:
        # torch looks for entry points of other makers' devices when it is imported, and does not
        # survive a malformed file of any package. This variable of torch's lets it not look.
        os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
    return packages


def _absent(name: str, names: list[str]) -> PluginError:
    return PluginError(
        f"{PLUGINS_VARIABLE} lists {name!r}, and no installed distribution of that name "
        "offers policies.",
        fix=did_you_mean(name, names) or f"Those that do: {', '.join(names) or 'none'}.",
        distribution=name,
    )


def _add_declared(registry: Registry, package: Package) -> None:
    """Register what a package declares as data; nothing of it is imported."""
    for entry in package.values(MANIFEST):
        with _errors_of(package, registry):
            path = manifest_path(entry.value)
            read_catalog(path, package.place(str(path))).add_to(registry)
    _add_records(registry, package, package.records())
    if not registry.blocks_distribution(package.distribution):
        for each in package.pretrained():
            with _errors_of(package, registry):
                registry.add_pretrained(each)


def _add_records(registry: Registry, package: Package, records: Iterable[Record]) -> None:
    for record in records:
        with _errors_of(package, registry):
            registry.add(record)


@contextlib.contextmanager
def _errors_of(package: Package, registry: Registry) -> Iterator[None]:
    """Keep an error as this package's: its other names and other packages go on."""
    try:
        yield
    except PolicyError as error:
        registry.errors.append(package.failure(error))


def _add_plugins(registry: Registry, package: Package) -> list[Plugin]:
    """Load the plug-ins of one package and return those that loaded."""
    loaded = []
    for plugin in package.plugins():
        start, had_torch = time.perf_counter(), "torch" in sys.modules
        try:
            records, misspelled = admit(plugin)
        except PluginError as error:
            registry.errors.append(error)
        else:
            loaded.append(plugin)
            registry.errors += misspelled
            _add_records(registry, package, records)
        registry.timings[f"{package.distribution}:{plugin.name}"] = timing_since(start, had_torch)
    return loaded


def _require_versions(registry: Registry, catalogs: list[Catalog]) -> None:
    for limit in (each for catalog in catalogs for each in catalog.requirements):
        version = installed_version(limit.distribution)
        if version is not None and limit.allows(version):
            continue
        state = f"{version} is installed" if version else "it is not installed"
        reason = f"{limit.distribution} {limit.specifier} is required, and {state}"
        registry.refuse(limit.distribution, reason, origin=limit.origin)
        registry.errors.append(
            PluginError(
                f"{reason[0].upper()}{reason[1:]} ({limit.origin}).",
                fix=f"pip install '{limit.distribution}{limit.specifier}'",
                distribution=normalize(limit.distribution),
                version=version or "",
            )
        )


def _raise_problems(registry: Registry) -> None:
    problems: list[PolicyError] = list(registry.errors)
    problems += [_clash(rivals) for rivals in registry.clashes()]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise PluginError(f"{len(problems)} problems, and discovery is strict:\n{lines}")


def _clash(rivals: list[Record]) -> AmbiguousName:
    lines = "\n".join(f"  {label(record)}" for record in rivals)
    return AmbiguousName(
        f"{len(rivals)} packages offer {rivals[0].name!r}:\n{lines}",
        fix=f'Settle it under [resolve] in registry.toml: {rivals[0].name} = "DISTRIBUTION".',
    )
