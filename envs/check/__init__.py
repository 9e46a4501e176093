"""What is wrong with an environment: `check_env`, and what it finds."""

from .findings import CheckProgress, Finding
from .run import CHECKS, check_env, check_names, run_checks

__all__ = ["CHECKS", "CheckProgress", "Finding", "check_env", "check_names", "run_checks"]
