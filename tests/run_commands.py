"""Runs lines of a console in one process, since each start takes seconds.

python run_commands.py < lines
"""

import re
import shlex
import subprocess
import sys

from fmlayers.cli import main

SHELL = re.compile(r"[|<>&;$*?`~{}]")


def run(line: str) -> int:
    """Returns the exit code of a line. A line that needs a shell has one."""
    name, *arguments = shlex.split(line, comments=True)
    if name == "fmlayers" and not SHELL.search(line):
        return main(arguments)
    return subprocess.run(["bash", "-euc", line], check=False).returncode


if __name__ == "__main__":
    for line in sys.stdin.read().replace("\\\n", " ").splitlines():
        code = run(line)
        if code:
            sys.exit(f"exit code {code}: {line}")
