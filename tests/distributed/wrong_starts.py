"""Calls `start` in ways that must fail, and prints the messages as JSON."""

import json
import os

import jax

from fmlayers._ports import free_port
from fmlayers.distributed import start

errors = {}


def fails(case, *args, **kwargs):
    try:
        start(*args, **kwargs)
        errors[case] = "no error"
    except (ValueError, RuntimeError) as error:
        errors[case] = str(error)


address = f"127.0.0.1:{free_port()}"
fails("nothing")
fails("no coordinator", processes=2, process=0)
fails("outside", address, 2, 2)
fails("negative", address, 2, -1)
fails("no port", "localhost", 2, 0)
fails("high port", "localhost:99999", 2, 0)
fails("timeout", address, 2, 0, timeout=0)
os.environ["FMLAYERS_PROCESS"] = "first"
fails("from the environment", address, 2)
fails("no answer", address, 2, 1, timeout=0.2)
jax.numpy.zeros(1).block_until_ready()
fails("late", address, 2, 0)
fails("one process", processes=1, process=0)
print(json.dumps(errors))
