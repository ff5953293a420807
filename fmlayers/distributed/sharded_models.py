"""Folders of a model whose spread tables are in one file per host."""

import os
import shutil
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from fmlayers import _hosts
from fmlayers._checks import boolean
from fmlayers._digests import check_digest, digest_of
from fmlayers._files import (
    naming,
    put_in_place,
    remove_leftovers,
    temporary_path,
    whole_file,
)
from fmlayers._json_files import read_json, write_json
from fmlayers._keras_files import content_of
from fmlayers._spread.stored_rows import StoredVariable, rows_apart, stored_rows
from fmlayers._spread.table_in_files import tables_in_files
from fmlayers._training.over_hosts import spread_variables
from fmlayers.distributed.agreement import gathered, process, processes, together
from fmlayers.distributed.spread_values import SpreadValue

MANIFEST, MODEL, FORMAT = "sharded.json", "model.keras", 1
MAX_NAME = 255  # bytes of the name of a file


def save_sharded(model: keras.Model, folder: str | os.PathLike[str]) -> None:
    """Saves a model as a folder, to which each host writes its rows of the tables.

    All processes must call it, and no process receives rows of others. The folder has
    the contents of a `.keras` file, with the state of the optimizer: `model.keras` with
    all weights but the tables of `tables_over_hosts`, one file per host for each of
    these tables, and `sharded.json` with the digests of the files. It appears, or
    replaces an existing folder, only when it is complete. If the processes are killed
    earlier, the existing folder remains.

    Args:
        model: The model.
        folder: Path of a folder that all processes share, for example on a network file
            system.

    Raises:
        OSError: If this process cannot write its files.
        RuntimeError: If another process cannot, or does not call the function.
        ValueError: If the processes do not share the folder, the folder has other
            contents, or the optimizer of a model with spread tables is not one of
            `fmlayers.optimizers`.

    Example:

    >>> import tempfile
    >>> features = [fmlayers.Categorical("user", 943)]
    >>> model = fmlayers.models.FactorizationMachine(features, dim=4)
    >>> folder = tempfile.mkdtemp() + "/model"
    >>> fmlayers.distributed.save_sharded(model, folder)
    >>> fmlayers.distributed.load_sharded(folder).name == model.name
    True
    """
    target = Path(folder)
    variables = spread_variables(model)
    if processes() > 1:
        _hosts.meet("`save_sharded`")
    written = _new_folder(target)
    try:
        digests = _write_rows(variables, written, target)
        in_group = _hosts.mesh() is not None
        with _hosts.on_process_0("`save_sharded`") if in_group else nullcontext():
            if process() == 0:
                with naming(target):
                    _complete(model, variables, digests, written)
                    put_in_place(written, target)
    finally:
        if process() == 0:
            shutil.rmtree(written, ignore_errors=True)


def load_sharded(
    folder: str | os.PathLike[str], *, on_disk: bool = False, compile: bool = True
) -> keras.Model:
    """Loads a model from a folder of `save_sharded`, on any backend.

    A single process or a group of any size can load it. In a group, all processes must
    call it. In a block of `tables_over_hosts`, each host reads its rows only.

    With `on_disk=True`, the tables that were spread over hosts, except those of a
    `History`, stay in the files, and a call reads only the rows of its batch. A process
    can then compute recommendations from tables that are larger than its memory: see
    `fmlayers.retrieval.merge_top_n`. Such a model can be called, but not be trained,
    compiled or exported, and these tables are not among its `weights`.

    Args:
        folder: Path of the folder.
        on_disk: Boolean, whether to leave these tables in the files, whose digests are
            then not checked. Defaults to `False`.
        compile: Boolean, whether to compile the model if it was compiled, and to load
            the state of the optimizer. Ignored with `on_disk=True`. Defaults to `True`.

    Returns:
        The model.

    Raises:
        ValueError: If a file is missing or damaged, or was written by a newer version;
            the error names the file. If an argument is not a Boolean, or `on_disk` is
            `True` in a group.
        RuntimeError: If another process of the group cannot read the folder.

    For an example, see `save_sharded`.
    """
    path, on_disk = Path(folder), boolean("on_disk", on_disk)
    compile = boolean("compile", compile)
    if on_disk and _hosts.mesh() is not None:
        raise ValueError(
            "`on_disk` must be False in a group of processes. To spread the tables "
            "over the memory of its hosts, load the model in a block of "
            "`tables_over_hosts`. Received: on_disk=True."
        )
    variables = together(lambda: _read(path, on_disk), "read the folder")
    with ExitStack() as contexts:
        contexts.enter_context(stored_rows(variables))
        if on_disk and variables:
            fewest = min(variable.shape[0] for variable in variables)
            contexts.enter_context(tables_in_files(fewest))
        return keras.saving.load_model(path / MODEL, compile=compile and not on_disk)


def _new_folder(target: Path) -> Path:
    """Returns a temporary folder beside the target, which process 0 creates."""

    def create() -> str:
        if process() > 0:
            return ""
        _check_replaceable(target)
        with naming(target):
            remove_leftovers(target.parent)
            written = temporary_path(target)
            written.mkdir()
        return written.name

    name = together(create, f"create {target}").encode().ljust(MAX_NAME, b"\0")
    of_process_0 = bytes(gathered(np.frombuffer(name, np.uint8))[0])
    return target.with_name(of_process_0.rstrip(b"\0").decode())


def _check_replaceable(target: Path) -> None:
    is_old = (target / MANIFEST).exists()
    is_empty = target.is_dir() and not any(target.iterdir())
    if is_old or is_empty or not target.exists():
        return
    raise ValueError(
        "`folder` must be new, empty, or a folder of `save_sharded`, which is then "
        f"replaced. Received: {target}, which has other contents."
    )


def _file(variable: int, host: int) -> str:
    """Returns the name of the file with the rows of a host."""
    return f"{variable:03}-{host:05}.npy"


def _write_rows(variables: list[Any], written: Path, target: Path) -> dict[str, str]:
    """Writes the rows of this process. Returns the digests of all files by name."""

    def write() -> list[list[int]]:
        if not written.is_dir():
            raise ValueError(
                f"`folder` must be shared by all processes. Received: {target}, in "
                f"which process {process()} does not see the files of process 0."
            )
        rows = []
        with naming(target):
            for i, variable in enumerate(variables):
                for host, values in SpreadValue.of(variable).rows.items():
                    path = written / _file(i, host)
                    with whole_file(path) as part, part.open("wb") as file:
                        np.lib.format.write_array(file, values, allow_pickle=False)
                    rows.append([i, host, *bytes.fromhex(digest_of(path))])
        return rows

    rows: npt.NDArray[Any] = np.array(together(write, f"write {target}"), "int32")
    if not variables:
        return {}
    every = gathered(rows).reshape(-1, rows.shape[1]).tolist()
    return {_file(i, host): bytes(digest).hex() for i, host, *digest in every}


def _complete(
    model: keras.Model, variables: list[Any], digests: dict[str, str], folder: Path
) -> None:
    """Writes all but the rows of the variables."""
    with rows_apart(variables):
        save = partial(keras.saving.save_model, model)
        (folder / MODEL).write_bytes(content_of(MODEL, save))
    described = [
        {
            "shape": list(variable.spread.shape),
            "dtype": str(variable.value.dtype),
            "hosts": variable.spread.num_hosts,
        }
        for variable in variables
    ]
    digests = {**digests, MODEL: digest_of(folder / MODEL)}
    manifest = {"format": FORMAT, "variables": described, "digests": digests}
    write_json(folder / MANIFEST, manifest)


def _read(folder: Path, on_disk: bool) -> list[StoredVariable]:
    """Checks the files, each in one of the processes, and returns the variables."""
    path = folder / MANIFEST
    manifest = read_json(path)
    try:
        if manifest["format"] != FORMAT:
            raise ValueError(
                f"{path} was written by a newer version of fmlayers. Update fmlayers. "
                f"Received: format {manifest['format']!r}; this version reads format "
                f"{FORMAT}."
            )
        digests = sorted(manifest["digests"].items())
        variables = [
            StoredVariable(
                tuple(folder / _file(i, host) for host in range(each["hosts"])),
                tuple(each["shape"]),
                each["dtype"],
            )
            for i, each in enumerate(manifest["variables"])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}.") from error
    for name, digest in digests[process() :: processes()]:
        if name == MODEL or not on_disk:
            check_digest(folder / name, digest)
    for variable in variables:
        len(variable.rows_by_host)  # checks that the files exist, and their shapes
    return variables
