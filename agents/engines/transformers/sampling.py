"""Drawing tokens: every row of a batch by its own number."""

from __future__ import annotations

import torch

__all__ = ["sample"]

_VOCABULARY_BLOCK = 256


def sample(logits_RV: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> torch.Tensor:
    """One token a row by inverting the cumulative distribution: a row's draw depends on its own number alone."""
    t = torch.tensor(temperatures, device=logits_RV.device)
    greedy = t <= 0
    if bool(greedy.all()):
        return logits_RV.argmax(-1)
    probs = torch.softmax(logits_RV / t.where(~greedy, torch.ones_like(t))[:, None], -1)
    u = torch.tensor(uniforms, dtype=torch.float64, device=logits_RV.device)
    # Two levels: first the block, then the token in it; one pass over the vocabulary in place of a cumulative one.
    padding = -probs.shape[1] % _VOCABULARY_BLOCK
    blocks_RB = torch.nn.functional.pad(probs, (0, padding)).view(len(probs), -1, _VOCABULARY_BLOCK)
    block, rest = _invert(blocks_RB.sum(-1).double(), u)
    inside = blocks_RB[torch.arange(len(probs), device=probs.device), block].double()
    token, _ = _invert(inside, rest)
    drawn = block * _VOCABULARY_BLOCK + token
    return torch.where(greedy, logits_RV.argmax(-1), drawn)


def _invert(mass_RK: torch.Tensor, u_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Index k with cumulative mass around u * total, and where in k's own mass it falls, from 0 to 1."""
    cumulative = mass_RK.cumsum(-1)
    goal = u_R * cumulative[:, -1]
    k = torch.searchsorted(cumulative, goal[:, None], right=True)
    last = (mass_RK > 0).long().mul(torch.arange(1, mass_RK.shape[1] + 1, device=mass_RK.device)).amax(-1) - 1
    k = torch.minimum(k[:, 0], last)[:, None]  # rounding may push the goal past the last possible one
    own = mass_RK.gather(1, k)[:, 0]
    before = cumulative.gather(1, k)[:, 0] - own
    return k[:, 0], ((goal - before) / own).clamp(0, 1 - 1e-12)
