"""One training run: optimiser, schedule, metrics, checkpoints. Knows nothing of any objective.

A run's folder holds `metrics.jsonl` (one row a step), `tensorboard/`, `checkpoints/step-000010/` (the newest complete
one only) and, in the end, `model/`. Nothing random is kept between steps: what a step does follows from its number and
the seed, so a run that was killed and resumed equals one that was not, bit for bit on CPU.

A run whose numbers are not finite ends with `TrainingError`: no such weights are ever saved.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..agents.models import not_finite
from ..agents.runtime import spare_memory
from ..trajectories.errors import ConfigError, DataError, InfrastructureError, TrainingError, is_full_disk
from ..trajectories.files import read_rows, sync, write_whole
from ..trajectories.interrupts import as_ctrl_c
from ..trajectories.trajectory import StopReason, Trajectory
from .losses import Loss, merge_logs
from .model import Policy
from .settings import Optim
from .world import World

__all__ = ["Interrupted", "OnEpisode", "OnStep", "Run", "write_text"]

METRICS = "metrics.jsonl"

_SKIPS = 5
"""Steps in a row whose gradient is not finite, after which the run is over: the weights have not moved meanwhile."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP, after everything was saved. Says where."""


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
            _groups(policy, optim.head_scale),
            lr=optim.lr,
            betas=optim.betas,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        self._writer: Any = None
        self._started = time.monotonic()
        self._done_before = 0
        self._applied = 0
        """Steps whose update is in the weights; one more than `step` from then until the step is over."""
        self._skipped = 0
        """Steps in a row whose gradient was not finite."""
        self._bugs = 0
        """Episodes since the last row of metrics that a bug of the environment ended."""
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
        """Around the whole loop: Ctrl-C, SIGTERM and SIGHUP write a checkpoint of the last complete step."""
        with as_ctrl_c():
            try:
                yield
            except KeyboardInterrupt:
                self._shield.raise_()  # who signals again has to wait until it is written
                self._optimizer.zero_grad(set_to_none=True)
                self.step = max(self.step, self._applied)
                if not self.step:
                    raise Interrupted(f"stopped before the first of {self.total} steps was done") from None
                self.save()
                raise Interrupted(f"stopped after step {self.step} of {self.total}; saved in {self.folder}") from None
            finally:
                self._shield.lower()

    def update(self, losses: Iterable[Callable[[], Loss]]) -> dict[str, float]:
        """One optimiser step from the losses of its micro-batches, each computed and differentiated in turn.

        Returns their merged logs and `loss`, `grad_norm`, `lr`; where there are losses of several parts, also each
        part's: `policy_loss`, `replay_loss`. A loss or a gradient that is not finite is not applied: `skipped`.
        """
        done: list[Loss] = []
        for compute in losses:
            loss = compute()
            if loss.value.requires_grad:
                loss.value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            done.append(replace(loss, value=loss.value.detach()))
        parameters = self.policy.parameters()
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.optim.max_grad_norm))
        lr = self.optim.lr_at(self.step, self.total)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        parts: dict[str, float] = {}
        for one in done:
            parts[one.part] = parts.get(one.part, 0.0) + float(one.value)
        value = sum(parts.values())
        finite = math.isfinite(norm) and math.isfinite(value) and math.isfinite(lr)
        self._skipped = 0 if finite else self._skipped + 1
        self._shield.raise_()  # a half-applied step, or one without its row of metrics, could not be resumed
        if finite:
            self._optimizer.step()
        self._applied = self.step + 1
        self._optimizer.zero_grad(set_to_none=True)
        spare_memory()
        apart = {f"{part}_loss": loss for part, loss in parts.items()} if len(parts) > 1 else {}
        logs = {"loss": value, **apart, **merge_logs(done), "grad_norm": norm, "lr": lr}
        return logs if finite else {**logs, "skipped": 1.0}

    def update_each(self, rounds: Iterable[Iterable[Callable[[], Loss]]]) -> dict[str, float]:
        """Several optimiser steps within one step of the run, an `update` for each round; means of their rows.

        Ctrl-C waits until all of them are done: half of a step cannot be resumed. `skipped` is 1 where none was
        applied, and `skipped_updates` counts those that were not.
        """
        rows = [self.update(losses) for losses in rounds]
        if len(rows) == 1:
            return rows[0]
        if not rows:
            return self.update(())
        out: dict[str, float] = {}
        for name in dict.fromkeys(name for row in rows for name in row if name != "skipped"):
            values = [row[name] for row in rows if name in row]
            combine = max if name.endswith("_max") else min if name.endswith("_min") else _average
            out[name] = combine(values)
        out["updates"] = float(len(rows))
        if skipped := sum("skipped" in row for row in rows):
            out |= {"skipped_updates": float(skipped), **({"skipped": 1.0} if skipped == len(rows) else {})}
        return out

    def check(self, row: Mapping[str, float]) -> None:
        """Raises `TrainingError` for a step after which the run cannot be meant to go on, from its row of metrics."""
        if math.isfinite(row["loss"]) and math.isfinite(row["lr"]) and self._skipped < _SKIPS:
            return
        done = self.step + 1
        if broken := not_finite(self.policy.module):
            what = f"the weights are not finite ({broken})"
        elif not (math.isfinite(row["loss"]) and math.isfinite(row["lr"])):
            name = "lr" if math.isfinite(row["loss"]) else "loss"
            what = f"its {name} is not finite ({row[name]})"
        else:
            what = f"the gradients of the last {self._skipped} steps were not finite"
        raise TrainingError(
            f"step {done} of {self.total}: {what}; it was not applied, and nothing more is saved in {self.folder}: "
            f"lower the learning rate (--lr, now {row['lr']:g}), or look at what this step learned from"
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics so far, those from before an interruption too."""
        return read_rows(self.folder / METRICS)

    def log(self, row: dict[str, float]) -> None:
        """Appends one row of metrics, with `step` (from 1) and `seconds`."""
        full = {"step": self.step + 1, "seconds": round(time.monotonic() - self._started, 2), **row}
        if self._bugs:
            full["bugs"], self._bugs = float(self._bugs), 0
        if self.world.is_main:
            with (self.folder / METRICS).open("a") as file:
                file.write(json.dumps({k: _plain(v) for k, v in full.items()}) + "\n")
        writer = self._tensorboard() if self.world.is_main else None
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, self.step + 1)
        if self._shield.lower():
            raise KeyboardInterrupt

    def counting_episodes(self, of: int) -> Callable[[int, Trajectory], None]:
        """A counter for `rollout`'s `on_done`, which tells `on_episode` of each episode played. Those that a bug of the
        environment ended are in the step's row, as `bugs`."""
        played = 0

        def count(_index: int, trajectory: Trajectory) -> None:
            nonlocal played
            played += 1
            self._bugs += trajectory.stop is StopReason.BUG
            if self.on_episode is not None:
                self.on_episode(self, played, of)

        return count

    def write(self, name: str, content: bytes) -> None:
        """A file of the run, below its folder."""
        if self.world.is_main:
            write_whole(self.folder / name, lambda part: part.write_bytes(content))

    def seconds_left(self) -> float | None:
        """Estimate from the steps done so far in this process."""
        done = self.step - self._done_before
        return (time.monotonic() - self._started) / done * (self.total - self.step) if done else None

    def finish(self) -> Path:
        """Saves the model, drops the checkpoints; the model's folder.

        Raises `TrainingError` where there is no model to be saved: its weights are not finite, or no step was applied.
        """
        target = self.folder / "model"
        self._refuse_not_finite()
        if (rows := self.rows) and all(row.get("skipped") for row in rows):
            raise TrainingError(
                f"the gradient of every step was not finite, so that none was applied ({self.folder}): lower the "
                "learning rate (--lr), or look at the data"
            )
        if self.world.is_main:
            try:
                _publish(target, self.policy.save)
            except InfrastructureError:  # a full disk, say: there is no room for a checkpoint either
                raise
            except Exception:
                self.save()  # all steps are done: their work is not to be lost
                raise
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return target

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint by temporary folder, fsync and rename, then drops older ones.

        Raises `TrainingError` for weights that are not finite: the checkpoint before them stays.
        """
        target = self.folder / "checkpoints" / f"step-{self.step:06d}"
        self._refuse_not_finite()
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

    def _refuse_not_finite(self) -> None:
        if broken := not_finite(self.policy.module):
            raise TrainingError(
                f"after step {self.step} of {self.total} the weights are not finite ({broken}): they are not saved in "
                f"{self.folder}; lower the learning rate (--lr, now {self.optim.lr:g})"
            )

    def _resume(self) -> None:
        """Takes up the newest complete checkpoint, if there is one."""
        checkpoints = self.folder / "checkpoints"
        for left in (*self.folder.glob(".*.tmp"), *checkpoints.glob(".*.tmp")):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        found = max((f for f in checkpoints.glob("step-*") if f.is_dir()), key=_number, default=None)
        if found is None:
            (self.folder / METRICS).unlink(missing_ok=True)
            return
        step, its_settings = _read_about(found)
        if its_settings != self._settings:
            raise ConfigError(
                f"{found} belongs to a run with other settings; use another folder, or delete it to start anew"
            )
        state = _read_state(found, self.policy.device)
        own = dict(self.policy.module.named_parameters())
        trained = {n: p.shape for n, p in own.items() if p.requires_grad}
        if trained != {n: t.shape for n, t in state["model"].items()}:
            raise ConfigError(
                f"{found} holds the weights of another model, or of other adapters: begin with the model that the run "
                "began with, use another folder, or delete it to start anew"
            )
        with torch.no_grad():
            for name, tensor in state["model"].items():
                own[name].copy_(tensor)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = step
        self._drop_rows_after(self.step)

    def _drop_rows_after(self, step: int) -> None:
        """Rows of steps that the checkpoint does not hold will be written again."""
        if (self.folder / METRICS).exists():
            kept = [row for row in self.rows if isinstance(at := row.get("step"), int) and at <= step]
            write_text(self.folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))

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


def _groups(policy: Policy, head_scale: float) -> list[dict[str, Any]]:
    """What is trained, for the optimiser: the model, and heads by their own rate."""
    heads = {id(p) for p in policy.heads.parameters()}
    trained = policy.parameters()
    parts = (([p for p in trained if id(p) not in heads], 1.0), ([p for p in trained if id(p) in heads], head_scale))
    return [{"params": part, "scale": scale} for part, scale in parts if part]


def _average(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _number(checkpoint: Path) -> int:
    digits = checkpoint.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _read_about(checkpoint: Path) -> tuple[int, str]:
    """Its step, and the settings of its run."""
    path = checkpoint / "run.json"
    try:
        about = json.loads(path.read_bytes())
        return int(about["step"]), str(about["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, error) from None


def _read_state(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    path = checkpoint / "state.pt"
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads without comparing the checksums that it wrote
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"{bad} is damaged")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        if not {"model", "optimizer"} <= state.keys():
            raise ValueError("expected the weights and the optimiser's state")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a cut file fails in many ways, of zipfile's, pickle's and torch's own
        raise _broken(path, error) from None
    return state


def _broken(path: Path, error: Exception) -> DataError:
    why = "it is not there" if isinstance(error, FileNotFoundError) else " ".join(str(error).split()) or "it is cut"
    return DataError(
        f"{path} cannot be read ({why:.120}): the checkpoint is broken; delete the folder {path.parent} and run it "
        "again, which begins at the checkpoint before it, or else at the first step"
    )


class _Disk:
    """A file that keeps what the disk answered: torch's writer ends with an internal error that does not say it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save_tensors(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        disk = _Disk(file)
        try:
            torch.save(state, disk)  # type: ignore[arg-type]  # it needs no more than these two methods
        except RuntimeError:
            if disk.error is not None:
                raise disk.error from None
            raise


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    try:
        write_whole(path, lambda part: part.write_text(text))
    except OSError as error:
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
                sync(path)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        sync(target.parent)
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


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
