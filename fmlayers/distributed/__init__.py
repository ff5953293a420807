"""Distributed training on JAX, with large tables spread over the hosts."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

__all__ = [
    "Checkpoints",
    "Place",
    "fit",
    "launch_with_ray",
    "load_sharded",
    "save_sharded",
    "start",
    "tables_over_hosts",
]

if TYPE_CHECKING:
    from fmlayers.distributed.checkpoints import Checkpoints, Place
    from fmlayers.distributed.fitting import fit
    from fmlayers.distributed.group import start
    from fmlayers.distributed.ray_launch import launch_with_ray
    from fmlayers.distributed.sharded_models import load_sharded, save_sharded
    from fmlayers.distributed.tables import tables_over_hosts
else:
    _MODULES = {
        "Checkpoints": "fmlayers.distributed.checkpoints",
        "Place": "fmlayers.distributed.checkpoints",
        "fit": "fmlayers.distributed.fitting",
        "launch_with_ray": "fmlayers.distributed.ray_launch",
        "load_sharded": "fmlayers.distributed.sharded_models",
        "save_sharded": "fmlayers.distributed.sharded_models",
        "start": "fmlayers.distributed.group",
        "tables_over_hosts": "fmlayers.distributed.tables",
    }
    __getattr__, __dir__ = _lazy.lazy_names(__name__, _MODULES)
