"""Backups of a fit, from which it resumes after its process was killed.

Each chain has a file for the sweep of the backup. `fit.json` names the sweep and the
digests of these files. It is replaced after all of them are written, and the files of
the former backup are removed after that, so that a backup is complete at any time.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy.typing as npt

from fmlayers._digests import check_digest, digest_of_arrays
from fmlayers._json_files import read_json, write_json
from fmlayers._state_files import VERSION
from fmlayers.bayes.chain_runs import Problem
from fmlayers.bayes.designs import Field

FIT = "fit.json"
MIN_SECONDS = 5.0  # between two backups
MIN_RATIO = 20.0  # of the seconds between two backups to those that one takes
_CHAIN = re.compile(r"chain-\d+-sweep-\d+\.npz")

Figures = dict[str, float]


class Saveable(Protocol):
    """Chains that can be saved: `ChainRuns` or `Workers`."""

    def save(self, paths: Sequence[Path]) -> list[str]: ...

    def restore(self, paths: Sequence[Path]) -> list[int]: ...


def description_of(
    settings: Mapping[str, Any],
    problem: Problem,
    fields: Mapping[str, Field],
) -> dict[str, Any]:
    """Returns everything that the draws of a fit depend on, as JSON types.

    Args:
        settings: Dict, the configuration of the sampler.
        problem: The `Problem`.
        fields: Dict from the name of a feature to its field over the training rows.

    Returns:
        A dict from the names of arguments to their values, or to digests of arrays.
    """
    held_out = None
    if problem.held_out is not None and problem.held_out_targets is not None:
        arrays = [x for f in problem.held_out.values() for x in _arrays(f)]
        held_out = digest_of_arrays([*arrays, problem.held_out_targets])
    return {
        **json.loads(json.dumps(settings)),
        "dim": problem.dim,
        "prior_scale": problem.prior.scale,
        "burn_in": problem.burn_in,
        **{
            f"inputs of {name!r}": digest_of_arrays(_arrays(field))
            for name, field in fields.items()
        },
        "targets": digest_of_arrays([problem.targets]),
        "sample_weight": digest_of_arrays([problem.weights]),
        "validation_data": held_out,
        "backend of Keras": keras.backend.backend(),
    }


def _arrays(field: Field) -> list[npt.NDArray[Any]]:
    design = field.design
    return [field.index, design.owners, design.columns, design.values]


class Backups:
    """The backups of a fit in a folder.

    Args:
        folder: Path of the folder. It is created if it does not exist.
        fit: Dict from the names of the arguments of the fit to their values or digests,
            as JSON types.
        chains: Integer, the number of chains.
    """

    def __init__(self, folder: Path, fit: Mapping[str, Any], chains: int) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as reason:
            raise ValueError(
                "`backup_dir` must be a folder, or a path where one can be created. "
                f"Received: {folder}, where a file is in the way."
            ) from reason
        self.folder = folder
        self._fit = dict(fit)
        self._chains = chains
        self._seconds = 0.0  # that the last backup took
        self._last = time.monotonic()

    def resume(self, runs: Saveable, sweeps: int) -> list[Figures]:
        """Resumes the chains from the backup, if there is one.

        Args:
            runs: The chains.
            sweeps: Integer, the number of sweeps of the fit.

        Returns:
            The figures of all sweeps before the backup.

        Raises:
            ValueError: If a file is damaged, or the backup is of another fit or has
                more sweeps.
        """
        path = self.folder / FIT
        if not path.exists():
            return []
        try:
            record = read_json(path)
            self._check(record)
            done = int(record["sweep"])
            if done > sweeps:
                raise ValueError(
                    f"`sweeps` must be at least {done}, the sweeps of the backup in "
                    f"{self.folder}. Received: sweeps={sweeps}."
                )
            paths = self._paths(done)
            for file, digest in zip(paths, record["digests"], strict=True):
                check_digest(file, digest)
            runs.restore(paths)
            history: list[Figures] = record["history"]
        except (KeyError, TypeError) as reason:
            raise ValueError(f"{path} is damaged: {reason!r}.") from reason
        return history

    def _check(self, record: Mapping[str, Any]) -> None:
        """Raises `ValueError` unless the backup is of this fit."""
        if record["version"] > VERSION:
            raise ValueError(
                f"{self.folder / FIT} was written by a newer version of fmlayers. "
                f"Update fmlayers. Received: version {record['version']}."
            )
        saved = record["fit"]
        names = [name for name in self._fit if saved.get(name) != self._fit[name]]
        names += [name for name in saved if name not in self._fit]
        if names:
            raise ValueError(
                "`backup_dir` must be empty, or contain a backup of the same fit. Use "
                f"another folder. Received: {self.folder}, whose backup differs in "
                f"{', '.join(names)}."
            )

    def is_due(self) -> bool:
        """Returns whether it is time for a backup, which depends on what one takes."""
        wait = max(MIN_SECONDS, MIN_RATIO * self._seconds)
        return time.monotonic() - self._last >= wait

    def write(self, runs: Saveable, history: Sequence[Figures]) -> None:
        """Writes a backup, which replaces the former one."""
        started = time.monotonic()
        paths = self._paths(len(history))
        record = {
            "version": VERSION,
            "fit": self._fit,
            "sweep": len(history),
            "digests": runs.save(paths),
            "history": list(history),
        }
        write_json(self.folder / FIT, record)
        for path in self.folder.iterdir():
            if _CHAIN.fullmatch(path.name) and path not in paths:
                path.unlink()
        self._last = time.monotonic()
        self._seconds = self._last - started

    def _paths(self, sweep: int) -> list[Path]:
        names = [f"chain-{i}-sweep-{sweep}.npz" for i in range(self._chains)]
        return [self.folder / name for name in names]
