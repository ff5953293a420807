"""The collectives of compiled training steps."""

import math
import re

import jax
import keras

COLLECTIVES = (
    "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|"
    "collective-broadcast"
)


def step_of(model, x, y):
    """Return the compiled training step of a model as text."""
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("hosts"))
    batch = keras.tree.map_structure(
        lambda x: jax.make_array_from_process_local_data(rows, x), (x, y)
    )
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    shardings = (None, model._get_state_sharding_spec())
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=shardings)
    return step.lower(state, batch).compile().as_text()


def collectives(text, hosts):
    """Return a bound of the numbers that each collective sends or receives."""
    found = []
    for line in text.splitlines():
        match = re.search(rf" = (.*?) ({COLLECTIVES})(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            numbers = [math.prod(map(int, filter(None, s.split(",")))) for s in shapes]
            # The operand of a reduce-scatter is as many times as large.
            found.append((match[2], sum(numbers) * hosts))
    return found
