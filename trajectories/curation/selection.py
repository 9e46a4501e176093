"""Which episodes to keep: dedup, coverage, diversity, quality, difficulty, balance, decontamination, a sample.

Defines `duplicates`, `near_duplicates`, `coverage`, `diverse`, `Quality`, `quality_of`, `quality`, `difficulty`,
`balanced`, `decontaminated`, `leaked`, `sample`.

What each keeps does not hang on the order in which episodes come, only on the episodes (and the seed); what is kept
stays in that order.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import ConfigError, DataError
from ..messages import Outcome, ToolResult
from ..trajectory import Task, Trajectory
from .card import Curated, draw_key, reward_of, with_card
from .demonstrations import mistaken
from .equality import call_text, fingerprint

__all__ = [
    "Facet",
    "Quality",
    "balanced",
    "coverage",
    "decontaminated",
    "difficulty",
    "diverse",
    "duplicates",
    "leaked",
    "near_duplicates",
    "quality",
    "quality_of",
    "sample",
]

Facet = Literal["env", "family", "level", "fault", "tool", "outcome", "agent", "success"]
"""What tells episodes apart: `family` is the task's kind, `fault` what really struck, `outcome` how calls failed."""

_DEFAULT_FACETS: tuple[Facet, ...] = ("tool", "fault", "family")


# --- the same twice ----------------------------------------------------------------------------------------------


def duplicates(trajectories: Iterable[Trajectory]) -> Curated[Trajectory]:
    """One of each: episodes in which the model wrote and saw the same, also with other ids, seeds and latencies.

    Of equals the better reward is kept, then the smaller id.
    """
    held = list(trajectories)
    first: dict[bytes, int] = {}
    for i in sorted(range(len(held)), key=lambda i: _preferred(held[i])):
        first.setdefault(fingerprint(held[i]), i)
    kept = set(first.values())
    return _keep("duplicates", held, lambda i: "" if i in kept else "the same as a kept one")


def near_duplicates(
    trajectories: Iterable[Trajectory], *, threshold: float = 0.8, words: int = 3, seed: int = 0
) -> Curated[Trajectory]:
    """One of those that are nearly the same: `threshold` or more of their runs of words are shared (Jaccard).

    Compared is what the agent wrote (texts, calls with their arguments) and the instruction, within an environment and
    its tools. Candidates are found by MinHash with bands, and each is then compared exactly: what is dropped is at
    least that similar to something that is kept; of twos at the threshold at most one in 200 is overlooked. Better
    rewards are kept first, then shorter episodes, then smaller ids.

    Args:
        words: Length of the runs.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold is a share above 0 and up to 1, got {threshold}")
    if words < 1:
        raise ConfigError(f"words must be 1 or more, got {words}")
    held = list(trajectories)
    rows, bands = _banding(threshold)
    draw = np.random.default_rng(seed).integers(1, 2**61 - 1, size=(2, _HASHES), dtype=np.uint64)
    buckets: dict[tuple[str, int, bytes], list[int]] = {}
    runs: dict[int, frozenset[int]] = {}
    dropped: set[int] = set()
    for i in sorted(range(len(held)), key=lambda i: _preferred(held[i])):
        mine = _runs(held[i], words)
        signature = _minhash(mine, draw)
        place = " ".join((held[i].env, *(tool.name for tool in held[i].tools)))
        keys = [(place, band, signature[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]
        candidates = {other for key in keys for other in buckets.get(key, ())}
        if any(len(mine & runs[other]) >= threshold * len(mine | runs[other]) for other in candidates):
            dropped.add(i)
            continue
        runs[i] = mine
        for key in keys:
            buckets.setdefault(key, []).append(i)
    return _keep("near_duplicates", held, lambda i: f"{threshold:g} like a kept one or more" if i in dropped else "")


_HASHES = 128
"""Of a signature."""
_OVERLOOKED = 0.005


def _banding(threshold: float) -> tuple[int, int]:
    """(rows, bands): the longest bands that overlook at most that share of twos at the threshold."""
    fits = [r for r in range(1, _HASHES + 1) if (1 - threshold**r) ** (_HASHES // r) <= _OVERLOOKED]
    rows = max(fits, default=1)
    return rows, _HASHES // rows


def _runs(t: Trajectory, n: int) -> frozenset[int]:
    """Hashes of the runs of `n` words; never empty."""
    text = _words(t.task.instruction)
    for turn in t.turns:
        text += ["|", *_words(turn.action.content)]
        for call in turn.action.tool_calls:
            text += ["|", call.name, *_words(call_text(call))]
    last = max(1, len(text) - n + 1)
    return frozenset(_hash(" ".join(text[i : i + n])) for i in range(last))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _minhash(runs: frozenset[int], draw: np.ndarray) -> np.ndarray:
    """(_HASHES,) the smallest value of each of as many hash functions, multiply and add modulo 2**64, mixed."""
    values = np.fromiter(runs, dtype=np.uint64, count=len(runs))
    with np.errstate(over="ignore"):  # the modulus
        mixed: np.ndarray = values[:, None] * (draw[0] | np.uint64(1)) + draw[1]
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(33)
    smallest: np.ndarray = mixed.min(axis=0)
    return smallest


# --- variety -----------------------------------------------------------------------------------------------------


def coverage(
    trajectories: Iterable[Trajectory], *, n: int, of: Sequence[Facet] = _DEFAULT_FACETS, seed: int = 0
) -> Curated[Trajectory]:
    """`n` episodes that cover tools, faults and task families as evenly as they can.

    One after the other the episode is taken whose facets have been met least (each counts 1 / (1 + times met)); ties
    are drawn at random. All are kept where there are `n` or fewer.
    """
    held = list(trajectories)
    _positive("n", n)
    features = [sorted({f"{facet}={value}" for facet in of for value in _values(t, facet)}) for t in held]
    left = sorted(range(len(held)), key=lambda i: draw_key(seed, held[i]))
    met: Counter[str] = Counter()
    kept: set[int] = set()
    while left and len(kept) < n:
        gains = [sum(1 / (1 + met[feature]) for feature in features[i]) for i in left]
        best = left.pop(max(range(len(left)), key=gains.__getitem__))
        met.update(features[best])
        kept.add(best)
    return _keep("coverage", held, lambda i: "" if i in kept else f"beyond {n}: adds least to what is covered")


def diverse(trajectories: Iterable[Trajectory], *, n: int, ngram: int = 2, seed: int = 0) -> Curated[Trajectory]:
    """`n` episodes that differ most in what was done: k-center on n-grams of actions.

    An action is the tools that a turn called and how the calls ended, or a message. From a random start, the episode
    farthest from all that are chosen is taken next (cosine distance of n-gram counts; ties at random), until `n` are
    chosen or all others repeat a chosen one exactly. All are kept where there are `n` or fewer.
    """
    held = list(trajectories)
    _positive("n", n)
    _positive("ngram", ngram)
    if len(held) <= n:
        return _keep("diverse", held, lambda i: "")
    grams = [Counter(_grams(t, ngram)) for t in held]
    column = {gram: i for i, gram in enumerate(sorted({gram for counts in grams for gram in counts}))}
    counts_NF = np.zeros((len(held), len(column)), dtype=np.float32)
    for i, counts in enumerate(grams):
        for gram, count in counts.items():
            counts_NF[i, column[gram]] = count
    counts_NF /= np.linalg.norm(counts_NF, axis=1, keepdims=True)
    order = sorted(range(len(held)), key=lambda i: draw_key(seed, held[i]))
    points_NF = counts_NF[order]
    distances_N = np.full(len(held), np.inf, dtype=np.float32)
    chosen: list[int] = [0]
    while len(chosen) < n:
        distances_N = np.minimum(distances_N, np.round(1 - points_NF @ points_NF[chosen[-1]], 5))
        distances_N[chosen] = -1  # never again
        farthest = int(distances_N.argmax())  # the first of equals: in the random order
        if distances_N[farthest] <= 0:
            break
        chosen.append(farthest)
    kept = {order[i] for i in chosen}
    return _keep("diverse", held, lambda i: "" if i in kept else "close to a kept one")


def _grams(t: Trajectory, n: int) -> list[str]:
    actions = ["<begin>", *(_action(turn.results) for turn in t.turns), "<end>"]
    return [" ".join(actions[i : i + n]) for i in range(max(1, len(actions) - n + 1))]


def _action(results: Sequence[ToolResult]) -> str:
    return "+".join(f"{r.tool}:{r.outcome.value}" for r in results) or "<says>"


# --- quality -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """How good an episode is as an example, each part from 0 to 1; None where nothing says."""

    length: float | None
    """The expert's turns over the agent's, at most 1; 0 without success; None where the expert_turns is not known."""
    thrift: float | None
    """Share of the calls that were not wasted: neither a mistake nor asking again for what was known. None: no call, or
    the record does not say how they ended."""
    margin: float | None
    """Share of its group's other episodes that have a lower reward, ties half; None where it is alone."""

    @property
    def score(self) -> float:
        """The mean of the parts that are known; 0 where none is."""
        known = [part for part in (self.length, self.thrift, self.margin) if part is not None]
        return math.fsum(known) / len(known) if known else 0.0


def quality_of(t: Trajectory, rivals: Sequence[Trajectory] = (), *, patience: int = 2) -> Quality:
    """Of one judged episode; `rivals` are the other judged ones of its task and faults."""
    length = (min(1.0, t.expert_turns / len(t.turns)) if t.success else 0.0) if t.expert_turns and t.turns else None
    calls = sum(len(turn.results) for turn in t.turns)
    thrift = 1 - wasted_calls(t, patience=patience) / calls if calls and t.outcomes_known else None
    others = [reward_of(other) for other in rivals]
    mine = reward_of(t)
    margin = math.fsum((mine > r) + 0.5 * (mine == r) for r in others) / len(others) if others else None
    return Quality(length, thrift, margin)


def wasted_calls(t: Trajectory, *, patience: int = 2) -> int:
    """Calls that were a mistake (see `turn_weights`), or that changed nothing and told what an equal call had told
    since the last change. A retry within patience is no waste."""
    told: dict[str, ToolResult] = {}
    gone: set[str] = set()
    known: set[tuple[str, str]] = set()
    wasted = 0
    for turn in t.turns:
        for call, result in zip(turn.action.tool_calls, turn.results, strict=False):
            answer = (call_text(call), result.content)
            if mistaken(result, told, gone, patience):
                wasted += 1
            elif result.ok and result.took_effect is not True:
                wasted += answer in known
                known.add(answer)
            if result.took_effect is not False:
                known.clear()  # the world may have changed: looking again is no waste
        told.update((r.call_id, r) for r in turn.results)
        gone.update(r.tool for r in turn.results if r.outcome is Outcome.GONE)
    return wasted


def quality(
    trajectories: Iterable[Trajectory], *, min: float | None = None, top: float | None = None, patience: int = 2
) -> Curated[Trajectory]:
    """Judged episodes whose `Quality.score` is `min` or more, or that are among the best share `top`; or both.

    A tie at the edge of `top` goes to the smaller id.
    """
    if min is None and top is None:
        raise ConfigError("quality needs min (a score from 0 to 1), or top (a share), or both")
    for name, value in (("min", min), ("top", top)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} is a number from 0 to 1, got {value}")
    held = list(trajectories)
    groups = _by_task(held)
    scores: dict[int, float] = {}
    for members in groups.values():
        for i in members:
            rivals = [held[j] for j in members if j != i]
            scores[i] = quality_of(held[i], rivals, patience=patience).score
    ranked = sorted(scores, key=lambda i: (-scores[i], held[i].id, held[i].attempt))
    best = set(ranked if top is None else ranked[: math.ceil(top * len(ranked))])

    def why(i: int) -> str:
        if i not in scores:
            return "not judged (infrastructure, cancelled)"
        if min is not None and scores[i] < min:
            return f"with a quality below {min:g}"
        return "" if i in best else f"not among the best {top:g}"

    return _keep("quality", held, why)


def difficulty(
    trajectories: Iterable[Trajectory], *, min: float = 0.1, max: float = 0.9, least: int = 2
) -> Curated[Trajectory]:
    """Judged episodes of tasks whose pass rate lies from `min` to `max`: neither hopeless nor known by heart.

    A rate is that of a group (a task under one fault plan) of `least` judged episodes or more.
    """
    if not 0 <= min <= max <= 1:
        raise ConfigError(f"min and max are pass rates with 0 <= min <= max <= 1, got {min} and {max}")
    _positive("least", least)
    held = list(trajectories)
    groups = _by_task(held)
    rates = {key: math.fsum(bool(held[i].success) for i in members) / len(members) for key, members in groups.items()}

    def why(i: int) -> str:
        key = _task_key(held[i])
        if not held[i].judged:
            return "not judged (infrastructure, cancelled)"
        if len(groups[key]) < least:
            return f"of a task with fewer than {least} judged episodes"
        if rates[key] < min:
            return f"of a task solved less often than {min:g}"
        return "" if rates[key] <= max else f"of a task solved more often than {max:g}"

    return _keep("difficulty", held, why)


# --- shares ------------------------------------------------------------------------------------------------------


def balanced(
    trajectories: Iterable[Trajectory], *, by: Facet, at_most: int | None = None, seed: int = 0
) -> Curated[Trajectory]:
    """As many of each class: `at_most`, or as many as the smallest has; drawn at random.

    An episode that has several values (tools, faults, outcomes) is of the class of that set. Raises `DataError` where
    there is one class only.
    """
    if at_most is not None:
        _positive("at_most", at_most)
    held = list(trajectories)
    classes: dict[str, list[int]] = {}
    for i in sorted(range(len(held)), key=lambda i: draw_key(seed, held[i])):
        classes.setdefault("+".join(_values(held[i], by)) or "none", []).append(i)
    if len(classes) == 1:
        raise DataError(f"all {len(held)} episodes have {by} {next(iter(classes))!r}: there is nothing to balance")
    size = at_most if at_most is not None else min((len(c) for c in classes.values()), default=0)
    kept = {i for members in classes.values() for i in members[:size]}
    return _keep("balanced", held, lambda i: "" if i in kept else f"beyond {size} of a {by}")


def sample(trajectories: Iterable[Trajectory], *, n: int, seed: int = 0) -> Curated[Trajectory]:
    """`n` episodes at random; all where there are fewer."""
    _positive("n", n)
    held = list(trajectories)
    kept = set(sorted(range(len(held)), key=lambda i: draw_key(seed, held[i]))[:n])
    return _keep("sample", held, lambda i: "" if i in kept else "not drawn")


# --- held-out tasks ----------------------------------------------------------------------------------------------


def decontaminated(
    trajectories: Iterable[Trajectory],
    *,
    against: Iterable[Task],
    by: Literal["instruction", "id"] = "instruction",
    words: int = 8,
    share: float = 0.9,
) -> Curated[Trajectory]:
    """Without episodes of held-out tasks: of the same id or set-up, or whose instruction is nearly that of one of them.

    Nearly: `share` or more of its runs of `words` words are in one held-out instruction; a shorter instruction is
    compared as a whole. With `by="id"` instructions are not compared: for environments whose tasks say the same and
    differ in their worlds.
    """
    held = list(trajectories)
    why = leaked(against, by=by, words=words, share=share)
    return _keep("decontaminated", held, lambda i: why(held[i].task))


def leaked(
    against: Iterable[Task], *, by: Literal["instruction", "id"] = "instruction", words: int = 8, share: float = 0.9
) -> Callable[[Task], str]:
    """A function that says why a task counts as one of those held out, or "". As `decontaminated` has it."""
    _positive("words", words)
    if not 0 < share <= 1:
        raise ConfigError(f"share is above 0 and up to 1, got {share}")
    tasks = list(against)
    if not tasks:
        raise DataError("no held-out task to compare with")
    ids = {task.id for task in tasks} | {_set_up(task) for task in tasks}
    where: dict[str, set[int]] = {}
    for number, task in enumerate(tasks if by == "instruction" else ()):
        for gram in _word_grams(task.instruction, words):
            where.setdefault(gram, set()).add(number)

    def why(task: Task) -> str:
        if task.id in ids or _set_up(task) in ids:
            return "of a held-out task"
        grams = _word_grams(task.instruction, words)
        shared = Counter(number for gram in grams for number in where.get(gram, ()))
        if shared and max(shared.values()) >= share * len(grams):
            return "with the instruction of a held-out task"
        return ""

    return why


def _set_up(task: Task) -> str:
    """What is asked for, in which world: the same under another id is the same task."""
    return Task(task.instruction, task.data, seed=task.seed).id


def _word_grams(text: str, n: int) -> set[str]:
    words = _words(text)
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


# --- helpers -----------------------------------------------------------------------------------------------------


def _values(t: Trajectory, facet: Facet) -> list[str]:
    """The values that an episode has, sorted; several for tools, faults and outcomes."""
    match facet:
        case "env":
            return [t.env]
        case "family":
            return [t.task.kind or "none"]
        case "level":
            return [str(t.task.level)]
        case "fault":
            return sorted(set(t.faults_hit))
        case "tool":
            return sorted({r.tool for r in t.results()})
        case "outcome":
            return sorted({r.outcome.value for r in t.results() if not r.ok})
        case "agent":
            return [t.agent]
        case "success":
            return [{True: "yes", False: "no", None: "not judged"}[t.success if t.judged else None]]
    raise ConfigError(f"expected one of {', '.join(Facet.__args__)}, got {facet!r}")


def _preferred(t: Trajectory) -> tuple[float, int, str, int]:
    """Better first: reward, fewer turns, id."""
    return (-reward_of(t) if t.judged else math.inf), len(t.turns), t.id, t.attempt


def _task_key(t: Trajectory) -> tuple[str, str, str]:
    return t.env, t.task.id, t.faults


def _by_task(held: Sequence[Trajectory]) -> dict[tuple[str, str, str], list[int]]:
    """Places of the judged episodes of each task under one fault plan."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for i, t in enumerate(held):
        if t.judged:
            groups.setdefault(_task_key(t), []).append(i)
    return groups


def _keep(what: str, held: Sequence[Trajectory], why: Callable[[int], str]) -> Curated[Trajectory]:
    """Those for which `why(place)` gives no reason to drop them."""
    kept: list[Trajectory] = []
    dropped: Counter[str] = Counter()
    for i, t in enumerate(held):
        if reason := why(i):
            dropped[reason] += 1
        else:
            kept.append(t)
    return with_card(what, kept, len(held), dropped)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be 1 or more, got {value}")
