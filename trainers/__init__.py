"""What is learned: objectives on trajectories, the loop, and recipes that string them together. Torch is loaded on use.

policy = Policy.load("smollm2-135m")
train(policy, Sft(SftSettings(steps=40), Data(episodes=gold)), "runs/sft")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy

if TYPE_CHECKING:  # the same names, for type checkers and editors; a test compares the lists
    from .loop import train
    from .mixture import Mixture, Part
    from .model import Lora, Policy
    from .objective import OBJECTIVES, Data, Objective
    from .objectives.dpo import Dpo, DpoSettings
    from .objectives.grpo import Grpo, GrpoSettings
    from .objectives.sft import Sft, SftSettings
    from .recipe import run_recipe
    from .settings import Optim, TrainSettings

__all__ = [
    "OBJECTIVES",
    "Data",
    "Dpo",
    "DpoSettings",
    "Grpo",
    "GrpoSettings",
    "Lora",
    "Mixture",
    "Objective",
    "Optim",
    "Part",
    "Policy",
    "Sft",
    "SftSettings",
    "TrainSettings",
    "run_recipe",
    "train",
]

_HOMES = {
    "Data": "objective",
    "Dpo": "objectives.dpo",
    "DpoSettings": "objectives.dpo",
    "Grpo": "objectives.grpo",
    "GrpoSettings": "objectives.grpo",
    "Lora": "model",
    "Mixture": "mixture",
    "OBJECTIVES": "objective",
    "Objective": "objective",
    "Optim": "settings",
    "Part": "mixture",
    "Policy": "model",
    "Sft": "objectives.sft",
    "SftSettings": "objectives.sft",
    "TrainSettings": "settings",
    "run_recipe": "recipe",
    "train": "loop",
}
"""Public name -> the module that it comes from."""


__getattr__, __dir__ = lazy(globals(), _HOMES)
