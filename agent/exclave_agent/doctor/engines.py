"""The inference engines: are those installed that the release names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from exclave_agent.doctor.report import Check, fail, ok, warn
from exclave_agent.doctor.site import Site

FOLDER: Final = "/opt/exclave/runtimes"
MODULES: Final = {"llama": "llama_cpp", "onnx": "onnxruntime"}
GPU_FOLDER: Final = "cuda"
PACKAGE: Final = "exclave-runtime-"
REMEDY: Final = (
    "install a runtime: apt-get install exclave-runtime-cpu, or dnf install exclave-runtime-cpu"
)


def installed(site: Site) -> list[str]:
    """Runtime packages of this machine, by the folders that they bring."""
    return [path.name for path in site.machine.glob(f"{FOLDER}/*") if _filled(site, path)]


def _filled(site: Site, path: Path) -> bool:
    """A folder that a removed package has left empty is none."""
    return any(site.machine.stat(path / module) for module in MODULES.values())


def gpu_package(site: Site) -> str:
    """The installed runtime package for GPUs; empty: none."""
    return f"{PACKAGE}{GPU_FOLDER}" if GPU_FOLDER in installed(site) else ""


def runtimes(site: Site) -> Iterator[Check]:
    """What the active release needs, found by the Python that the workers run in."""
    kept = site.kept
    manifest = kept.manifest if kept is not None else None
    found = [name for name, module in MODULES.items() if site.machine.has_module(module)]
    packages = ", ".join(f"{PACKAGE}{name}" for name in installed(site))
    told = f"{', '.join(found) or 'none'}{f' ({packages})' if packages else ''}"
    models = manifest.models if manifest is not None else ()
    # An adapter runs in its base's engine, a remote model on another machine.
    needed = {model.runtime for model in models} - {"lora", "remote"}
    missing = sorted(needed - set(found))
    if missing:
        yield fail("runtimes", f"{told}; the release needs {', '.join(missing)}", REMEDY)
    elif not found:
        yield warn("runtimes", f"{told}; no release with models can be activated", REMEDY)
    else:
        yield ok("runtimes", told)
