"""The command `fmlayers`, with one module per subcommand."""

# Only light imports: Ctrl-C ends in a traceback until `main` has begun.
from fmlayers.cli.process import main

__all__ = ["main"]
