"""What is broken and how: pairs of small functions, the ways in which each is got wrong, and the tasks made of them.

A `FunctionRecipe` is a function {f} and the helper {g} that it calls. A `Bug` replaces a piece of text in one of the
two. The inputs of tests are drawn at random and the expected values come from the right source, which no tool can read.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

from ...trajectories.messages import Json
from ...trajectories.trajectory import Task
from ..task import Split

__all__ = ["RECIPES", "Bug", "FunctionRecipe", "cases", "sources", "tasks"]

VISIBLE, HIDDEN = 3, 8
"""Tests of one function that the agent can see, and further ones with other inputs that judge it."""

_WORDS = "ada ben cora dan ella finn gus hana ivan june".split()
_ITEMS = "pen cup hat map jar".split()

Inputs = Callable[[random.Random], list[Json]]


@dataclass(frozen=True, slots=True)
class Bug:
    """One way to get it wrong."""

    family: str
    right: str
    """Stands once in the two sources."""
    wrong: str


@dataclass(frozen=True, slots=True)
class FunctionRecipe:
    """Two functions, with {f} and {g} for their names."""

    names: tuple[str, ...]
    """Pairs "f g"."""
    f: str
    g: str
    bugs: tuple[Bug, ...]
    inputs: Inputs
    """Draws the arguments of one call of {f}; edge cases often."""

    def at_helper(self, bug: int) -> bool:
        """Whether the bug is in {g}."""
        return self.bugs[bug].right in self.g


def _numbers(rng: random.Random, most: int = 5, top: int = 20) -> list[int]:
    return [rng.randrange(1, top) for _ in range(rng.randrange(most + 1))]


def _sometimes(rng: random.Random, *rest: Json) -> list[Json]:
    """Arguments with a default are left out in half of the calls."""
    return list(rest) if rng.random() < 0.5 else []


RECIPES: dict[str, FunctionRecipe] = {
    "price": FunctionRecipe(
        ("total reduced", "bill after_discount", "cart_sum sale_price", "charge lowered", "invoice net_price",
         "amount_due cheaper"),
        "def {f}(prices, percent):\n    total = 0\n    for price in prices:\n        total += {g}(price, percent)\n"
        "    return total\n",
        "def {g}(price, percent):\n    return price - price * percent // 100\n",
        (
            Bug("wrong default", "total = 0", "total = 1"),
            Bug("swapped arguments", "{g}(price, percent)\n    return total", "{g}(percent, price)\n    return total"),
            Bug("wrong operator", "total += ", "total = "),
            Bug("wrong operator", "price - price", "price + price"),
            Bug("wrong constant", "// 100", "// 10"),
        ),
        lambda rng: [[10 * n for n in _numbers(rng)], rng.choice((0, 10, 20, 50))],
    ),
    "window": FunctionRecipe(
        ("spreads spread", "ranges span", "swings swing", "gaps gap", "widths width", "moves reach"),
        "def {f}(values, size):\n    found = []\n    for start in range(len(values) - size + 1):\n"
        "        found.append({g}(values[start:start + size]))\n    return found\n",
        "def {g}(values):\n    if not values:\n        return 0\n    return max(values) - min(values)\n",
        (
            Bug("off by one", "- size + 1", "- size"),
            Bug("off by one", "start + size]", "start + size - 1]"),
            Bug("wrong operator", "max(values) - min", "max(values) + min"),
            Bug("missing edge case", "    if not values:\n        return 0\n", ""),
        ),
        lambda rng: [_numbers(rng, 6), rng.choice((0, 1, 2, 3))],
    ),
    "limit": FunctionRecipe(
        ("passed enough", "admitted qualifies", "winners wins", "accepted reaches", "chosen suffices", "heavy exceeds"),
        "def {f}(entries, limit=50):\n    return [name for name, score in entries if {g}(score, limit)]\n",
        "def {g}(score, limit):\n    return score >= limit\n",
        (
            Bug("wrong default", "limit=50", "limit=60"),
            Bug("swapped arguments", "{g}(score, limit)]", "{g}(limit, score)]"),
            Bug("off by one", "score >= limit", "score > limit"),
            Bug("wrong operator", "score >= limit", "score <= limit"),
            Bug("wrong value", "[name for", "[score for"),
        ),
        lambda rng: [
            [[name, rng.choice((30, 40, 50, 55, 60, 70))] for name in rng.sample(_WORDS, rng.randrange(4))],
            *_sometimes(rng, rng.choice((30, 40, 60))),
        ],
    ),
    "steps": FunctionRecipe(
        ("walk clamp", "slide bounded", "drift limited", "travel capped", "adjust kept_in", "shift fenced"),
        "def {f}(start, moves, top=10):\n    place = start\n    for move in moves:\n"
        "        place = {g}(place + move, top)\n    return place\n",
        "def {g}(value, top):\n    if value < 0:\n        return 0\n    return min(value, top)\n",
        (
            Bug("wrong default", "top=10", "top=12"),
            Bug("wrong operator", "place + move", "place - move"),
            Bug("swapped arguments", "{g}(place + move, top)", "{g}(top, place + move)"),
            Bug("wrong operator", "min(value, top)", "max(value, top)"),
            Bug("missing edge case", "    if value < 0:\n        return 0\n", ""),
        ),
        lambda rng: [
            rng.randrange(8),
            [rng.randrange(-6, 9) for _ in range(rng.randrange(5))],
            *_sometimes(rng, rng.choice((5, 8))),
        ],
    ),
    "initials": FunctionRecipe(
        ("initials initial", "short_name first_letter", "monogram capital", "signature head", "label_of big_letter",
         "badge opening"),
        "def {f}(name, mark=\".\"):\n    parts = name.split()\n    return mark.join([{g}(part) for part in parts])\n",
        "def {g}(word):\n    return word[0].upper()\n",
        (
            Bug("wrong default", 'mark="."', 'mark="-"'),
            Bug("wrong value", "name.split()", 'name.split("a")'),
            Bug("off by one", "word[0]", "word[1]"),
            Bug("wrong value", "upper()", "lower()"),
        ),
        lambda rng: [" ".join(rng.sample(_WORDS, rng.randrange(1, 4))), *_sometimes(rng, rng.choice(("", " ")))],
    ),
    "counts": FunctionRecipe(
        ("repeated counted", "frequent tally", "popular histogram", "common occurrences", "regulars visits",
         "usual how_often"),
        "def {f}(words, least=2):\n    counts = {g}(words)\n"
        "    return sorted([word for word in counts if counts[word] >= least])\n",
        "def {g}(words):\n    counts = {{}}\n    for word in words:\n"
        "        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
        (
            Bug("wrong default", "least=2", "least=1"),
            Bug("off by one", ">= least", "> least"),
            Bug("wrong default", "get(word, 0)", "get(word, 1)"),
            Bug("wrong value", "counts.get(word, 0) + 1", "1"),
        ),
        lambda rng: [[rng.choice(_ITEMS) for _ in range(rng.randrange(9))], *_sometimes(rng, rng.choice((1, 3)))],
    ),
    "clock": FunctionRecipe(
        ("total_time in_seconds", "playing_time seconds_of", "duration to_seconds", "running_time parsed",
         "length_of as_number", "lap_sum secs"),
        "def {f}(times):\n    seconds = sum([{g}(time) for time in times])\n"
        "    return f\"{{seconds // 60}}:{{seconds % 60:02d}}\"\n",
        "def {g}(time):\n    minutes, seconds = time.split(\":\")\n    return int(minutes) * 60 + int(seconds)\n",
        (
            Bug("wrong value", ":02d", ""),
            Bug("wrong constant", "seconds // 60", "seconds // 100"),
            Bug("wrong operator", "seconds % 60", "seconds // 60"),
            Bug("swapped names", "minutes, seconds =", "seconds, minutes ="),
            Bug("wrong constant", "* 60 +", "* 100 +"),
            Bug("wrong operator", "+ int(seconds)", "- int(seconds)"),
        ),
        lambda rng: [[f"{rng.randrange(5)}:{rng.randrange(60):02d}" for _ in range(rng.randrange(4))]],
    ),
    "ranking": FunctionRecipe(
        ("best points", "leaders score_of", "top_names value_of", "podium result_of", "favourites votes_of",
         "strongest force"),
        "def {f}(entries, n=2):\n    ranked = sorted(entries, key={g}, reverse=True)\n"
        "    return [name for name, _ in ranked[:n]]\n",
        "def {g}(entry):\n    return entry[1]\n",
        (
            Bug("wrong value", "reverse=True", "reverse=False"),
            Bug("off by one", "ranked[:n]", "ranked[1:n]"),
            Bug("off by one", "ranked[:n]", "ranked[:n + 1]"),
            Bug("wrong default", "n=2", "n=1"),
            Bug("off by one", "entry[1]", "entry[0]"),
        ),
        lambda rng: [
            [[name, score] for name, score in zip(
                rng.sample(_WORDS, 4), rng.sample(range(2, 40), rng.randrange(5)), strict=False)],
            *_sometimes(rng, rng.choice((1, 3))),
        ],
    ),
    "stock": FunctionRecipe(
        ("after_sales remaining", "left_over minus", "in_store taken_off", "inventory lessened", "supplies without",
         "shelf reduced_by"),
        "def {f}(stock, sold):\n    left = dict(stock)\n    for item in sold:\n"
        "        left[item] = {g}(left.get(item, 0), sold[item])\n    return left\n",
        "def {g}(count, taken):\n    return max(count - taken, 0)\n",
        (
            Bug("wrong value", "dict(stock)", "{{}}"),
            Bug("swapped arguments", "{g}(left.get(item, 0), sold[item])", "{g}(sold[item], left.get(item, 0))"),
            Bug("wrong operator", "max(count", "min(count"),
            Bug("missing edge case", "max(count - taken, 0)", "count - taken"),
            Bug("wrong operator", "count - taken", "count + taken"),
        ),
        lambda rng: [
            {item: rng.randrange(1, 9) for item in rng.sample(_ITEMS, rng.randrange(1, 4))},
            {item: rng.randrange(1, 9) for item in rng.sample(_ITEMS, rng.randrange(3))},
        ],
    ),
    "pages": FunctionRecipe(
        ("pages page_count", "batches batch_count", "groups group_count", "rows row_count", "packets packet_count",
         "teams team_count"),
        "def {f}(items, size):\n    found = []\n    for n in range({g}(len(items), size)):\n"
        "        found.append(items[n * size:(n + 1) * size])\n    return found\n",
        "def {g}(count, size):\n    return (count + size - 1) // size\n",
        (
            Bug("off by one", "(n + 1) * size]", "n * size + 1]"),
            Bug("off by one", "items[n * size:", "items[n * size + 1:"),
            Bug("missing edge case", "(count + size - 1) // size", "count // size"),
            Bug("off by one", "count + size - 1", "count + size"),
        ),
        lambda rng: [_numbers(rng, 7), rng.choice((1, 2, 3, 4))],
    ),
    "years": FunctionRecipe(
        ("days_between year_days", "span_days length_of_year", "calendar_days days_in", "period_days count_days",
         "epoch_days yearly", "total_days size_of_year"),
        "def {f}(first, last):\n    return sum([{g}(year) for year in range(first, last + 1)])\n",
        "def {g}(year):\n    if year % 400 == 0:\n        return 366\n    if year % 100 == 0:\n        return 365\n"
        "    return 366 if year % 4 == 0 else 365\n",
        (
            Bug("off by one", "last + 1", "last"),
            Bug("off by one", "range(first,", "range(first + 1,"),
            Bug("missing edge case", "    if year % 400 == 0:\n        return 366\n", ""),
            Bug("missing edge case", "    if year % 100 == 0:\n        return 365\n", ""),
            Bug("wrong operator", "year % 4 == 0", "year % 4 != 0"),
        ),
        lambda rng: [year := rng.choice((1896, 1899, 1995, 1999, 2000, 2001)), year + rng.randrange(4)],
    ),
    "codes": FunctionRecipe(
        ("valid is_valid", "usable is_usable", "genuine is_genuine", "readable is_readable", "clean is_clean",
         "allowed is_allowed"),
        "def {f}(codes):\n    return [code for code in codes if {g}(code)]\n",
        "def {g}(code, length=4):\n    return len(code) == length and code.isdigit()\n",
        (
            Bug("wrong operator", "if {g}(code)]", "if not {g}(code)]"),
            Bug("wrong operator", "length and code", "length or code"),
            Bug("wrong default", "length=4", "length=5"),
            Bug("wrong operator", "len(code) == length", "len(code) >= length"),
            Bug("wrong value", "code.isdigit()", "code.isalpha()"),
        ),
        lambda rng: [
            [rng.choice(("1234", "12345", "abcd", "777", "0420", "x9", "9999", "abcde")) for _ in range(
                rng.randrange(1, 5))]
        ],
    ),
}  # fmt: skip


def sources(recipe: str, names: tuple[str, str], bugs: tuple[int, ...] = ()) -> tuple[str, str]:
    """The two functions under these names, with these bugs in them."""
    made = RECIPES[recipe]
    f, g = made.f, made.g
    for bug in bugs:
        f = f.replace(made.bugs[bug].right, made.bugs[bug].wrong)
        g = g.replace(made.bugs[bug].right, made.bugs[bug].wrong)
    return f.format(f=names[0], g=names[1]), g.format(f=names[0], g=names[1])


@lru_cache(maxsize=1024)
def _function(recipe: str, bugs: tuple[int, ...]) -> Callable[..., Any]:
    """The real function: our own source, run here to learn what is right."""
    space: dict[str, Any] = {}
    exec("\n".join(sources(recipe, ("f", "g"), bugs)), space)
    found: Callable[..., Any] = space["f"]
    return found


def _value(recipe: str, bugs: tuple[int, ...], arguments: list[Json]) -> Json:
    try:
        return _function(recipe, bugs)(*copy.deepcopy(arguments))
    except Exception as error:  # what a bug comes to; the right source never raises
        return [type(error).__name__]


def cases(recipe: str, bugs: tuple[int, ...], rng: random.Random) -> list[tuple[list[Json], Json]]:
    """(arguments, right value) of `VISIBLE` tests and then of `HIDDEN` others. As long as any of the bugs are left, one
    of each fails."""
    left = [some for n in range(1, len(bugs) + 1) for some in combinations(bugs, n)]
    draw, chosen = RECIPES[recipe].inputs, list[list[Json]]()
    for size in (VISIBLE, VISIBLE + HIDDEN):
        telling: list[list[Json]] = []
        for some in left:
            if not any(_value(recipe, some, a) != _value(recipe, (), a) for a in telling):
                telling.append(_telling(recipe, some, chosen, rng))
        telling = [a for i, a in enumerate(telling) if a not in telling[:i]]
        while len(chosen) + len(telling) < size:
            arguments = draw(rng)
            if arguments not in chosen and arguments not in telling:
                telling.append(arguments)
        rng.shuffle(telling)
        chosen += telling
    return [(arguments, _value(recipe, (), arguments)) for arguments in chosen]


def _telling(recipe: str, bugs: tuple[int, ...], known: list[list[Json]], rng: random.Random) -> list[Json]:
    """Arguments for which these bugs show."""
    for _ in range(10_000):
        arguments = RECIPES[recipe].inputs(rng)
        if arguments not in known and _value(recipe, bugs, arguments) != _value(recipe, (), arguments):
            return arguments
    raise AssertionError(f"no input of {recipe} shows the bugs {bugs}")


@lru_cache(maxsize=1024)
def _shows(recipe: str, bugs: tuple[int, ...]) -> bool:
    """Whether they show often enough to be tested for: some pairs cancel each other out."""
    rng = random.Random(recipe)
    drawn = [RECIPES[recipe].inputs(rng) for _ in range(100)]
    return len([a for a in drawn if _value(recipe, bugs, a) != _value(recipe, (), a)]) >= 5


def _split_of(recipe: str, names: str, bug: int) -> Split:
    """Train 80 %, validation 10 %, test 10 % of all (recipe, names, bug)."""
    bucket = zlib.crc32(f"{recipe}/{names}/{bug}".encode()) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def tasks(split: Split, rng: random.Random) -> Iterator[Task]:
    """Endless, levels in turn; each has one function next to it that is right.

    Level 1: the function is named, and the bug is in it (3 calls). 2: it is not named (4). 3: the bug is in the
    helper (5). 4: two functions, one of them wrong in itself and in its helper (8).
    """
    known: list[tuple[str, str, tuple[int, ...]]] = [
        (recipe, names, (bug,))
        for recipe, made in RECIPES.items()
        for names in made.names
        for bug in range(len(made.bugs))
        if _split_of(recipe, names, bug) == split
    ]
    at_f = [entry for entry in known if not RECIPES[entry[0]].at_helper(entry[2][0])]
    at_g = [entry for entry in known if RECIPES[entry[0]].at_helper(entry[2][0])]
    both = [(*one[:2], one[2] + other[2]) for one in at_f for other in at_g if one[:2] == other[:2]]
    both = [entry for entry in both if _shows(entry[0], entry[2])]
    level = 0
    while True:
        level = level % 4 + 1
        first = rng.choice((at_f, at_f, at_g, both)[level - 1])
        broken = [first]
        if level == 4:
            broken.append(rng.choice([entry for entry in at_f if entry[0] != first[0]]))
        used = {entry[0] for entry in broken}
        right = rng.choice([recipe for recipe in RECIPES if recipe not in used])
        broken.append((right, rng.choice(RECIPES[right].names), ()))
        families = sorted({RECIPES[recipe].bugs[bug].family for recipe, _, bugs in broken for bug in bugs})
        text = rng.choice(_WORDINGS[level == 1]).format(f=first[1].split()[0])
        yield Task(
            text,
            {"parts": [{"recipe": r, "names": names.split(), "bugs": list(bugs)} for r, names, bugs in broken]},
            seed=rng.randrange(2**31),
            kind="+".join(families),
            level=level,
        )


_WORDINGS = (
    ("Some tests fail. Fix the code.", "Make the tests pass.", "The code is wrong somewhere. Fix it."),
    ("{f} is wrong. Fix it.", "A test of {f} fails. Fix {f}.", "Make the tests of {f} pass."),
)
