"""How long a start takes: `import fmlayers` beside `import keras`, and the command.

    python -m benchmarks.cold_start

Fresh processes in turn, medians.
"""

import subprocess
import sys

from benchmarks._timing import medians

STARTS = {
    "import keras": "import keras",
    "import fmlayers": "import fmlayers",
    "import fmlayers.models": "import fmlayers.models",
    "fmlayers --help": "import fmlayers.cli as c, sys; sys.argv[1:] = ['--help']; "
    "c.main()",
}


def main() -> None:
    def start(code: str) -> object:
        return subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    seconds = medians({n: lambda c=c: start(c) for n, c in STARTS.items()}, rounds=7)
    least = seconds["import keras"]
    for name, taken in seconds.items():
        print(f"{name:24}{taken:6.2f} s{(taken - least) * 1e3:+8.0f} ms")


if __name__ == "__main__":
    main()
