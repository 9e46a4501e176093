"""One training run: optimiser, schedule, metrics, checkpoints. Knows nothing of any objective.

A run's folder holds `metrics.jsonl` (one row a step), `tensorboard/`, `checkpoints/step-000010/` (the newest complete
one only) and, in the end, `model/`. Nothing random is kept between steps: what a step does follows from its number and
the seed, so a run that was killed and resumed equals one that was not, bit for bit on CPU.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..agents.runtime import spare_memory
from ..trajectories.errors import ConfigError, DataError, InfrastructureError, is_full_disk
from ..trajectories.trajectory import Trajectory
from .losses import Loss, merge_logs
from .model import Policy
from .settings import Optim
from .world import World

__all__ = ["Interrupted", "OnEpisode", "OnStep", "Run", "only_process_in", "write_text"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything was saved. Says where."""


OnStep = Callable[["Run", dict[str, float]], None]
"""Told of each step's row of metrics."""

OnEpisode = Callable[["Run", int, int], None]
"""Told within a step how many of how many episodes have been played."""


class Run:
    """The loop's other half: `for step in run.steps(): ...; run.update(losses); run.log(...)`."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        optim: Optim,
        steps: int,
        *,
        settings: Any = None,
        save_every: int = 0,
        world: World | None = None,
        on_episode: OnEpisode | None = None,
    ) -> None:
        """
        Args:
            folder: Of the run; made if need be.
            policy: What is trained.
            optim: Optimiser and schedule.
            steps: Optimiser steps of the whole run.
            settings: Dataclass of what defines the run; a checkpoint of other settings is refused.
            save_every: Steps between checkpoints; 0: only on interruption.
            world: The processes that train together. The main one writes.
            on_episode: Told of episodes played within a step.
        """
        self.world = world or World()
        self.on_episode = on_episode
        self.folder = folder
        self.policy = policy
        self.optim = optim
        self.total = steps
        self.save_every = save_every
        self.step = 0
        self._settings = json.dumps(asdict(settings) if settings is not None else {}, sort_keys=True, default=str)
        self._optimizer = torch.optim.AdamW(
            policy.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay, fused=True
        )
        self._writer: Any = None
        self._started = time.monotonic()
        self._done_before = 0
        self._applied = 0
        """Steps whose update is in the weights; one more than `step` from then until the step is over."""
        self._shield = _Shield()
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    # ---- the loop --------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """The steps still to do; a checkpoint every `save_every`."""
        self._started, self._done_before = time.monotonic(), self.step
        try:
            while self.step < self.total:
                yield self.step
                self.step += 1
                if self._shield.lower():
                    raise KeyboardInterrupt
                if self.save_every and self.step % self.save_every == 0 and self.step < self.total:
                    self.save()
        finally:
            self._shield.lower()
            self._close()

    @contextmanager
    def saving_on_interrupt(self) -> Iterator[None]:
        """Around the whole loop: Ctrl-C writes a checkpoint of the last complete step."""
        try:
            yield
        except KeyboardInterrupt:
            self._optimizer.zero_grad(set_to_none=True)
            self.step = max(self.step, self._applied)
            if self.step:
                self.save()
            raise Interrupted(f"stopped after step {self.step} of {self.total}; saved in {self.folder}") from None
        finally:
            self._shield.lower()

    def update(self, losses: Iterable[Callable[[], Loss]]) -> dict[str, float]:
        """One optimiser step from the losses of its micro-batches, each computed and differentiated in turn.

        Returns their merged logs and `loss`, `grad_norm`, `lr`. A gradient that is not finite is not applied:
        `skipped`.
        """
        done: list[Loss] = []
        for compute in losses:
            loss = compute()
            if loss.value.requires_grad:
                loss.value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            done.append(Loss(loss.value.detach(), loss.logs, loss.weight))
        parameters = self.policy.parameters()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm))
        lr = self.optim.lr_at(self.step, self.total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        finite = math.isfinite(norm)
        self._shield.raise_()  # a half-applied step, or one without its row of metrics, could not be resumed
        if finite:
            self._optimizer.step()
        self._applied = self.step + 1
        self._optimizer.zero_grad(set_to_none=True)
        spare_memory()
        logs = {"loss": sum(float(d.value) for d in done), **merge_logs(done), "grad_norm": norm, "lr": lr}
        return logs if finite else {**logs, "skipped": 1.0}

    def log(self, row: dict[str, float]) -> None:
        """Appends one row of metrics, with `step` (from 1) and `seconds`."""
        full = {"step": self.step + 1, "seconds": round(time.monotonic() - self._started, 2), **row}
        if self.world.is_main:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({k: _plain(v) for k, v in full.items()}) + "\n")
        writer = self._tensorboard() if self.world.is_main else None
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, self.step + 1)
        if self._shield.lower():
            raise KeyboardInterrupt

    def counting_episodes(self, of: int) -> Callable[[int, Trajectory], None]:
        """A counter for `rollout`'s `on_done`, which tells `on_episode` of each episode played."""
        played = 0

        def count(_index: int, _trajectory: Trajectory) -> None:
            nonlocal played
            played += 1
            if self.on_episode is not None:
                self.on_episode(self, played, of)

        return count

    def write(self, name: str, content: bytes) -> None:
        """A file of the run, below its folder."""
        if self.world.is_main:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def seconds_left(self) -> float | None:
        """Estimate from the steps done so far in this process."""
        done = self.step - self._done_before
        return (time.monotonic() - self._started) / done * (self.total - self.step) if done else None

    def finish(self) -> Path:
        """Saves the model, drops the checkpoints; the model's folder."""
        target = self.folder / "model"
        if self.world.is_main:
            _publish(target, self.policy.save)
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return target

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint by temporary folder, fsync and rename, then drops older ones."""
        target = self.folder / "checkpoints" / f"step-{self.step:06d}"
        if not self.world.is_main:
            return target

        def write(folder: Path) -> None:
            trained = {n: p.detach().cpu() for n, p in self.policy.module.named_parameters() if p.requires_grad}
            _save_tensors({"model": trained, "optimizer": self._optimizer.state_dict()}, folder / "state.pt")
            write_text(folder / "run.json", json.dumps({"step": self.step, "settings": self._settings}))

        if not target.exists():
            _publish(target, write)
        for other in target.parent.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)
        return target

    def _resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        found = sorted((self.folder / "checkpoints").glob("step-*"))
        if not found:
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return
        about = json.loads((found[-1] / "run.json").read_text())
        if about["settings"] != self._settings:
            raise ConfigError(
                f"{found[-1]} belongs to a run with other settings; use another folder, or delete it to start anew"
            )
        state = torch.load(found[-1] / "state.pt", weights_only=True, map_location=self.policy.device)
        own = dict(self.policy.module.named_parameters())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                own[name].copy_(tensor)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(about["step"])
        self._drop_rows_after(self.step)

    def _drop_rows_after(self, step: int) -> None:
        """Rows of steps that the checkpoint does not hold will be written again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            rows = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            write_text(path, "".join(row + "\n" for row in rows))

    def _tensorboard(self) -> Any:
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # the extra `tensorboard` is not installed: the JSONL has everything
                self._writer = False
            else:
                self._writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step + 1)
        return self._writer or None

    def _close(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes. Raises `ConfigError` where one has it; a killed one holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another process is at work in {folder}: wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def _save_tensors(state: dict[str, Any], path: Path) -> None:
    """torch's own writer ends with an internal error where the disk is full: that is said as what it is."""
    try:
        torch.save(state, path)
    except RuntimeError as error:
        needed = sum(t.numel() * t.element_size() for t in state["model"].values()) // 100
        if shutil.disk_usage(path.parent).free <= needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from None


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary folder, flushes it, and renames it to `target`."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) or is_full_disk(error):
            free = shutil.disk_usage(target.parent).free // 2**20
            raise InfrastructureError(
                f"cannot write {target} ({free} MB free): {error}; what was saved is intact: free space and resume"
            ) from None
        raise


class _Shield:
    """Puts Ctrl-C off while it is up."""

    def __init__(self) -> None:
        self._before: Any = None
        self._seen = False

    def raise_(self) -> None:
        if self._before is None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._note)  # in another thread Ctrl-C does not arrive anyway
            self._before = signal.default_int_handler if before is None else before

    def lower(self) -> bool:
        """Whether Ctrl-C came meanwhile."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        seen, self._before, self._seen = self._seen, None, False
        return seen

    def _note(self, number: int, frame: Any) -> None:
        self._seen = True


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"a row of metrics.jsonl cannot be read: {line[:80]!r}") from error


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
