"""A worker of a study on this machine: `python -m fmlayers.tuning.worker STUDY`."""

import sys
from pathlib import Path

from fmlayers.tuning.search import work


def main() -> None:
    path, timeout = sys.argv[1:]
    work(Path(path), float(timeout))


if __name__ == "__main__":
    main()
