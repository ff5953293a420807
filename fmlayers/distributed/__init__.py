"""Training over several hosts, with large tables spread over them, on JAX."""

from typing import TYPE_CHECKING

from fmlayers import _lazy

__all__ = ["start", "tables_over_hosts"]

if TYPE_CHECKING:
    from fmlayers.distributed.group import start
    from fmlayers.distributed.tables import tables_over_hosts
else:
    _MODULES = {
        "start": "fmlayers.distributed.group",
        "tables_over_hosts": "fmlayers.distributed.tables",
    }
    __getattr__, __dir__ = _lazy.lazy_names(__name__, _MODULES)
