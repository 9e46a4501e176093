"""What is wrong with an environment: `check_env`, and what it finds."""

from .findings import Finding, Progress
from .run import CHECKS, check_env, check_names, run_checks

__all__ = ["CHECKS", "Finding", "Progress", "check_env", "check_names", "run_checks"]
