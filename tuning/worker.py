"""A worker that a chief on this machine starts."""

import sys
from pathlib import Path

from fmlayers.tuning.study_search import work


def main() -> None:
    path, timeout, count = sys.argv[1:]
    work(Path(path), float(timeout), siblings=int(count))
