"""Where the shell and `python -m sparring` come in. Nothing is imported before Ctrl-C has an answer."""

__all__ = ["main"]


def main() -> None:
    """Runs the command line."""
    try:
        from .cli.root import main as command_line

        command_line()
    except KeyboardInterrupt:  # while modules were loaded: nothing has begun
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
