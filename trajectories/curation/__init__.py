"""From trajectories to training data: pure functions, deterministic by seed, that count what they leave out.

What makes a data set returns `Curated(items, card)`; the card says how many came in, and why others were dropped. Where
nothing would be left it raises `DataError` with its card: an empty data set is never what was meant.

`curate` runs several rules one after the other, named in code or in a file, and makes one card of all.
"""

from .card import Card, Curated, digest
from .demonstrations import (
    best_of,
    distillation,
    gold,
    recoveries,
    rejection_sampling,
    successes,
    turn_weights,
    weighted,
)
from .equality import same_turns, shared_turns
from .files import holds_pairs, read_pairs, write_pairs
from .mixing import mixture
from .preferences import (
    Pair,
    PairJudge,
    Scorer,
    correction_pairs,
    judged_pairs,
    on_policy_pairs,
    pairs_from_labels,
    people_pairs,
    scored_pairs,
    step_pairs,
    style_pairs,
)
from .rules import PAIRS, RULES, AppliedRule, Curation, curate, parse_rule, read_rules
from .selection import (
    Quality,
    balanced,
    coverage,
    decontaminated,
    difficulty,
    diverse,
    duplicates,
    leaked,
    near_duplicates,
    quality,
    quality_of,
    sample,
)

__all__ = [
    "PAIRS",
    "RULES",
    "AppliedRule",
    "Card",
    "Curated",
    "Curation",
    "Pair",
    "PairJudge",
    "Quality",
    "Scorer",
    "balanced",
    "best_of",
    "correction_pairs",
    "coverage",
    "curate",
    "decontaminated",
    "difficulty",
    "digest",
    "distillation",
    "diverse",
    "duplicates",
    "gold",
    "holds_pairs",
    "judged_pairs",
    "leaked",
    "mixture",
    "near_duplicates",
    "on_policy_pairs",
    "pairs_from_labels",
    "parse_rule",
    "people_pairs",
    "quality",
    "quality_of",
    "read_pairs",
    "read_rules",
    "recoveries",
    "rejection_sampling",
    "same_turns",
    "sample",
    "scored_pairs",
    "shared_turns",
    "step_pairs",
    "style_pairs",
    "successes",
    "turn_weights",
    "weighted",
    "write_pairs",
]
