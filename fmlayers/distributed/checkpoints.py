import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from fmlayers import _hosts
from fmlayers._checks import integer
from fmlayers._digests import check_digest, digest_of
from fmlayers._json_files import read_json, write_json
from fmlayers._state_files import read_state, write_state
from fmlayers._training.variables_file import state_variables
from fmlayers.distributed.agreement import gathered, process, processes, together
from fmlayers.distributed.spread_values import SpreadValue, is_over_hosts

MANIFEST = "checkpoint.json"
KIND, FORMAT = "a part of a checkpoint", 1
_PART = re.compile(r"(\d{8})-\d{5}\.npz")
Shape = tuple[int | None, ...]


class Place(NamedTuple):
    """The progress of training.

    Attributes:
        epoch: Integer, the number of completed epochs.
        batch: Integer, the number of completed batches of the next epoch.
    """

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class _Manifest:
    """The record of a checkpoint. Parts without a record are ignored.

    Attributes:
        number: Positive integer, the number of the checkpoint.
        place: The `Place`.
        processes: Integer, the number of processes that wrote the checkpoint.
        hosts: Integer, the number of devices over which the tables were spread.
        digests: List of the SHA-256 digests of the parts.
        variables: List of `[path, shape]` for all variables. The first dimension of a
            spread variable is `None` if its number of rows is unknown.
    """

    number: int
    place: Place
    processes: int
    hosts: int
    digests: list[str]
    variables: list[list[Any]]
    format: int = FORMAT

    def parts_to_read(self) -> set[int]:
        """Returns the indices of the parts that this process must read."""
        if (self.processes, self.hosts) == (processes(), _num_hosts()):
            return {0, process()}
        return set(range(self.processes))


class Checkpoints:
    """Saves and restores the state of training, including tables spread over hosts.

    A checkpoint consists of all weights, the variables of the optimizer, the state of
    the random generators, and the position in the data. Each process writes its rows
    of the tables of `tables_over_hosts`, and process 0 also writes all other variables.
    The checkpoint is complete once process 0 has written its manifest. Process 0 then
    removes the previous checkpoint. If the processes are killed at any moment, they can
    restore the last complete checkpoint. The number of processes that restore a
    checkpoint may differ from the number that saved it.

    Args:
        folder: Path of a folder that all processes share, for example on a network file
            system. It is created if necessary.

    Example:

    >>> import tempfile
    >>> features = [fmlayers.Categorical("user", 943)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=4)
    >>> model.compile("adam", loss="mse")
    >>> checkpoints = fmlayers.distributed.Checkpoints(tempfile.mkdtemp())
    >>> checkpoints.save(model, epoch=3)
    >>> checkpoints.restore(model)
    Place(epoch=3, batch=0)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._number: int | None = None

    def save(self, model: keras.Model, *, epoch: int, batch: int = 0) -> None:
        """Saves a compiled model. All processes must call it.

        Args:
            model: The model.
            epoch: Nonnegative integer, the number of completed epochs.
            batch: Nonnegative integer, the number of completed batches of the next
                epoch. Defaults to 0.

        Raises:
            OSError: If this process cannot write its part. The last checkpoint is kept.
            RuntimeError: If another process cannot write its part.
        """
        place = Place(
            integer("epoch", epoch, "at least 0", least=0),
            integer("batch", batch, "at least 0", least=0),
        )
        variables = _variables(model)
        number = self._last_number() + 1
        path = self._part(number, process())

        def write() -> str:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_state(path, KIND, {"variables": _own_values(variables)})
            return digest_of(path)

        digest = together(write, f"write {path.name}")
        digests = gathered(np.frombuffer(bytes.fromhex(digest), np.uint8))
        manifest = _Manifest(
            number,
            place,
            processes(),
            _num_hosts(),
            [bytes(x).hex() for x in digests],
            [[v.path, _shape(v)] for v in variables],
        )

        def commit() -> None:
            if process() == 0:
                write_json(self.folder / MANIFEST, vars(manifest))
                self._remove_before(number)

        # All wait, so that each of them restores this checkpoint from now on.
        together(commit, f"write {MANIFEST}")
        self._number = number

    def restore(self, model: keras.Model) -> Place:
        """Restores the last checkpoint, if there is one. All processes must call it.

        Args:
            model: The model, compiled in the same way as the model that was saved.

        Returns:
            The `Place` at which to resume, or `Place(0, 0)` without a checkpoint. If
            the number of processes has changed since `save`, the number of batches is
            converted to cover about the same number of rows.

        Raises:
            ValueError: If a file is damaged, the checkpoint belongs to another model,
                or the processes do not share the folder.
        """
        variables = _variables(model)
        manifest = self._read_manifest()
        numbers = gathered(0 if manifest is None else manifest.number)
        if len(set(numbers.tolist())) > 1:
            raise ValueError(
                f"`folder` must be shared by all processes. Received: {self.folder}, "
                f"in which the processes find the checkpoints {numbers.tolist()}."
            )
        if manifest is None:
            return Place()
        together(lambda: self._load(variables, manifest), "restore the checkpoint")
        epoch, batch = manifest.place
        return Place(epoch, batch * manifest.processes // processes())

    def callback(
        self, every: int | None = None, *, batch: int = 0
    ) -> keras.callbacks.Callback:
        """Returns a callback for `fit` that saves the model after each epoch.

        Args:
            every: Optional positive integer. The callback also saves the model after
                this many batches of an epoch. Defaults to `None`.
            batch: Nonnegative integer, the number of completed batches of the first
                epoch. Defaults to 0.
        """
        if every is not None:
            every = integer("every", every)
        return _Saving(self, every, batch)

    def _part(self, number: int, index: int) -> Path:
        return self.folder / f"{number:08}-{index:05}.npz"

    def _last_number(self) -> int:
        if self._number is None:
            manifest = self._read_manifest()
            self._number = 0 if manifest is None else manifest.number
        return self._number

    def _read_manifest(self) -> _Manifest | None:
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        content = read_json(path, ValueError)
        try:
            version = content["format"]
            if version == FORMAT:
                content["place"] = Place(*content["place"])
                return _Manifest(**content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}.") from error
        raise ValueError(
            f"{path} was written by a newer version of fmlayers. Update fmlayers. "
            f"Received: format {version!r}; this version reads format {FORMAT}."
        )

    def _remove_before(self, number: int) -> None:
        for path in self.folder.iterdir():
            match = _PART.fullmatch(path.name)
            if match and int(match[1]) < number:
                path.unlink()

    def _load(self, variables: Sequence[Any], manifest: _Manifest) -> None:
        _check_same(variables, manifest, self.folder / MANIFEST)
        new = [SpreadValue.empty_like(variable) for variable in variables]
        for index in manifest.parts_to_read():
            path = self._part(manifest.number, index)
            check_digest(path, manifest.digests[index], ValueError)
            for name, rows in read_state(path, KIND)["variables"].items():
                new[int(name)].fill(SpreadValue.of_state(rows, manifest.hosts))
        for variable, value in zip(variables, new, strict=True):
            value.assign_to(variable)
        self._number = manifest.number


class _Saving(keras.callbacks.Callback):
    """Saves checkpoints; see `Checkpoints.callback`."""

    def __init__(self, checkpoints: Checkpoints, every: int | None, batch: int) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.every = every
        self.first = self.saved = batch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ) -> None:
        done = self.first + batch + 1
        last = self.first + self.params["steps"]
        if self.every and done // self.every > self.saved // self.every and done < last:
            self.saved = done
            self._save(self.epoch, done)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.first = self.saved = 0
        self._save(epoch + 1, 0)

    def _save(self, epoch: int, batch: int) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.checkpoints.save(self.model, epoch=epoch, batch=batch)


def _variables(model: keras.Model) -> list[Any]:
    """Returns the variables of a checkpoint, always in the same order."""
    if not model.compiled:
        raise ValueError("`model` must be compiled. Received: an uncompiled model.")
    return state_variables(model)


def _num_hosts() -> int:
    mesh = _hosts.mesh()
    return 1 if mesh is None else int(mesh.size)


def _check_same(variables: Sequence[Any], manifest: _Manifest, path: Path) -> None:
    saved = [(name, tuple(shape)) for name, shape in manifest.variables]
    model = [(v.path, _shape(v)) for v in variables]
    for one, other in itertools.zip_longest(saved, model):
        if one is None or other is None or not _agree(one[1], other[1]):
            raise ValueError(
                f"{path} must be a checkpoint of the same model and optimizer. "
                f"Received: {_described(one)} where the model has {_described(other)}."
            )


def _agree(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(
        x == y or None in (x, y) for x, y in zip(one, other, strict=True)
    )


def _described(variable: tuple[str, Shape] | None) -> str:
    return "nothing" if variable is None else f"{variable[0]} {variable[1]}"


def _shape(variable: Any) -> Shape:
    """Returns the shape without spare rows. An unknown number of rows is `None`."""
    shape = tuple(variable.shape)
    if not is_over_hosts(variable):
        return shape
    rows = variable.spread.num_rows if hasattr(variable, "spread") else None
    return (rows, *shape[1:])


def _own_values(variables: Sequence[Any]) -> dict[str, Any]:
    """Returns the values that this process writes, by the position of the variable."""
    return {
        str(i): SpreadValue.of(variable).state()
        for i, variable in enumerate(variables)
        if process() == 0 or is_over_hosts(variable)
    }
