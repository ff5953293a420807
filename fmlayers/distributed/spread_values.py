"""Values of variables as the rows of each host. Replicated values have one host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from keras import ops

from fmlayers import _hosts
from fmlayers._spread.rows import host_of_shard, hosts_and_places, rows_of_host

Array = npt.NDArray[Any]


def is_over_hosts(variable: Any) -> bool:
    """Returns whether the rows of a variable are spread over hosts."""
    if _hosts.mesh() is None:
        return False
    return not variable.value.sharding.is_fully_replicated


@dataclass(frozen=True)
class SpreadValue:
    """Rows of a variable, as `SpreadRows` spreads them.

    Attributes:
        hosts: Positive integer, the number of hosts.
        rows: Dict from the index of a host to its rows, for the hosts of this process.
    """

    hosts: int
    rows: dict[int, Array]

    @classmethod
    def of(cls, variable: Any) -> Self:
        """Returns the value of a variable, for the hosts of this process."""
        if not is_over_hosts(variable):
            return cls(1, {0: np.asarray(ops.convert_to_numpy(variable.value))})
        value, hosts = variable.value, int(_hosts.mesh().size)
        return cls(
            hosts,
            {
                host_of_shard(shard.index, value.shape[0] // hosts): np.asarray(
                    shard.data
                )
                for shard in value.addressable_shards
            },
        )

    @classmethod
    def empty_like(cls, variable: Any) -> Self:
        """Returns zeros in place of the value of a variable."""
        value = cls.of(variable)
        return cls(value.hosts, {h: np.zeros_like(x) for h, x in value.rows.items()})

    @classmethod
    def of_state(cls, state: Array | Mapping[str, Array], hosts: int) -> Self:
        """Returns the value that a state describes.

        Args:
            state: A dict from the index of a host to its rows, or the whole value.
            hosts: Integer, the number of hosts. Ignored for a whole value.
        """
        if isinstance(state, Mapping):
            return cls(hosts, {int(host): rows for host, rows in state.items()})
        return cls(1, {0: state})

    def state(self) -> Array | dict[str, Array]:
        """Returns the state that `of_state` reads."""
        if self.hosts == 1:
            return self.rows[0]
        return {str(host): rows for host, rows in self.rows.items()}

    def fill(self, source: "SpreadValue") -> None:
        """Copies rows from a value, which may be spread over other hosts."""
        for host, rows in self.rows.items():
            for other, new in source.rows.items():
                if self.hosts == source.hosts:
                    if host == other:
                        rows[...] = new
                    continue
                ids = rows_of_host(other, source.hosts, len(new))
                hosts, places = hosts_and_places(ids, self.hosts)
                here = (hosts == host) & (places < len(rows))
                rows[places[here]] = new[here]

    def assign_to(self, variable: Any) -> None:
        """Assigns the value to a variable that is spread in the same way."""
        if not is_over_hosts(variable):
            variable.assign(self.rows[0])
            return
        import jax

        old = variable.value
        places = old.shape[0] // self.hosts
        variable.assign(
            jax.make_array_from_callback(
                old.shape,
                old.sharding,
                lambda index: self.rows[host_of_shard(index, places)],
            )
        )
