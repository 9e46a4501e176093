"""The examples do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def test_the_bare_loop_of_grpo_teaches(repository: Path) -> None:
    """At most 150 lines, and the success that it prints goes up."""
    example = repository / "examples" / "grpo_loop.py"
    assert len(example.read_text("utf-8").splitlines()) <= 150
    done = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    success = [float(number) for number in re.findall(r"success ([\d.]+)", done.stdout)]
    assert len(success) == 8
    assert sum(success[4:]) / 4 > success[0] + 0.2
