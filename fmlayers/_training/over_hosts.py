"""Models whose batches, and optionally tables, are spread over hosts."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fmlayers import _hosts, _ray_train
from fmlayers._backend import assign_all_rows
from fmlayers._spread.files import save_in_pieces
from fmlayers._spread.rows import HeldRows, gathered, is_spread

_BY_DEVICES = ("rows", "validation_rows", "batch_size")
_PREDICTS: ContextVar[bool] = ContextVar("predicts", default=False)


class OverHosts:
    """Mixin for a `keras.Model` that several processes train together.

    Without `fmlayers.distributed.start`, all methods are those of Keras, except that
    `fit` refuses to train a separate model in each Ray Train worker, and that `predict`
    executes one step at a time. List the mixin before the Keras class.
    """

    _steps_per_execution: int

    @property
    def steps_per_execution(self) -> int:
        """The steps that Keras executes at once, 1 while this thread predicts."""
        return 1 if _PREDICTS.get() else self._steps_per_execution

    @steps_per_execution.setter
    def steps_per_execution(self, value: int) -> None:
        self._steps_per_execution = value

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        fit = super().fit  # type: ignore[misc]
        _ray_train.check_joined()
        if _hosts.mesh() is not None:
            given = _bound(fit, args, kwargs)
            _check_alike(
                rows=_rows(given["x"]),
                batch_size=given["batch_size"],
                steps_per_epoch=given["steps_per_epoch"],
                epochs=given["epochs"],
                validation_rows=_rows(_inputs_of(given["validation_data"])),
                validation_steps=given["validation_steps"],
            )
        return fit(*args, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        evaluate = super().evaluate  # type: ignore[misc]
        # `fit` has already checked its validation rows.
        if _hosts.mesh() is not None and "_use_cached_eval_dataset" not in kwargs:
            given = _bound(evaluate, args, kwargs)
            _check_alike(
                rows=_rows(given["x"]),
                batch_size=given["batch_size"],
                steps=given["steps"],
            )
        return evaluate(*args, **kwargs)

    @functools.wraps(keras.Model.predict)
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        predict = super().predict  # type: ignore[misc]
        rows = None
        if _hosts.mesh() is not None:
            args, kwargs = (), _bound(predict, args, kwargs)
            rows = _rows(kwargs["x"])
            _check_alike(batch_size=kwargs["batch_size"], steps=kwargs["steps"])
            if rows is not None:
                devices = _hosts.local_devices()
                longest = int(_hosts.of_processes([rows]).max())
                longest += -longest % devices
                kwargs["x"] = keras.tree.map_structure(
                    lambda x: _lengthened(x, longest), kwargs["x"]
                )
        # Keras would trace as many steps as it executes at once, which takes seconds.
        # In distributed training, it would join their batches in another order of rows.
        token = _PREDICTS.set(True)
        try:
            predictions = predict(*args, **kwargs)
        finally:
            _PREDICTS.reset(token)
        return keras.tree.map_structure(lambda x: x[:rows], predictions)

    def predict_step(self, *args: Any) -> Any:
        outputs = super().predict_step(*args)  # type: ignore[misc]
        if _hosts.mesh() is None:
            return outputs
        predictions, state = outputs
        return keras.tree.map_structure(_hosts.split_rows, predictions), state

    def make_predict_function(self, force: bool = False) -> Any:
        model: Any = self
        if model.predict_function is not None and not force:
            return model.predict_function
        super().make_predict_function(force)  # type: ignore[misc]
        if _hosts.mesh() is not None:
            step = model.predict_function

            def step_here(*args: Any) -> Any:
                predictions, state = step(*args)
                return keras.tree.map_structure(_hosts.rows_here, predictions), state

            model.predict_function = step_here
        return model.predict_function

    def get_weights(self) -> list[Any]:
        model: Any = self
        return [HeldRows(v) if is_spread(v) else v.numpy() for v in model.weights]

    def set_weights(self, weights: list[Any]) -> None:
        model: Any = self
        spread = [v for v in model.weights if is_spread(v)]
        if not spread or len(model.weights) != len(weights):
            super().set_weights(weights)  # type: ignore[misc]
            return
        for variable, value in zip(model.weights, weights, strict=True):
            if not (isinstance(value, HeldRows) and value.assign_to(variable)):
                assign_all_rows(variable, value)

    @functools.wraps(keras.Model.save)
    def save(self, *args: Any, **kwargs: Any) -> None:
        self._save(super().save, *args, **kwargs)  # type: ignore[misc]

    @functools.wraps(keras.Model.save_weights)
    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        self._save(super().save_weights, *args, **kwargs)  # type: ignore[misc]

    def _save(self, save: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Saves the model in process 0, to which all processes send their rows."""
        model: Any = self
        if _hosts.mesh() is None:
            save(*args, **kwargs)
            return
        variables = spread_variables(model)
        _hosts.meet(f"`{save.__name__}`")
        path = _file_of(save, args, kwargs)
        if path is not None:
            save_in_pieces(save, path, variables)
            return
        writes = _hosts.process() == 0
        with gathered(variables, writes), _hosts.on_process_0(f"`{save.__name__}`"):
            if writes:
                save(*args, **kwargs)


def _bound(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    bound = inspect.signature(method).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _file_of(
    save: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Path | None:
    """Returns the path of a single file on a disk, or `None` for anything else."""
    given = _bound(save, args, kwargs)
    path = given.pop("filepath")
    if not isinstance(path, (str, os.PathLike)) or "://" in str(path):
        return None
    is_plain = given in (
        {"overwrite": True, "zipped": None, "kwargs": {}},
        {"overwrite": True, "zipped": True, "kwargs": {}},
        {"overwrite": True, "max_shard_size": None},
    )
    suffix = ".keras" if "zipped" in given else ".weights.h5"
    return Path(path) if is_plain and str(path).endswith(suffix) else None


def _rows(x: Any) -> int | None:
    """Returns the number of rows of this process, or `None` if `x` has no arrays.

    Raises:
        ValueError: If an entry is a pair of values and row splits.
    """
    columns = x.element_spec[0] if hasattr(x, "element_spec") else x
    columns = columns if isinstance(columns, Mapping) else {"x": columns}
    for name, column in columns.items():
        if isinstance(column, (tuple, list)):
            raise ValueError(
                "In distributed training, lists of ids must be padded with 0 to the "
                f"shape (rows, length). Received: a pair of values and row splits for "
                f"{name!r}. Pass the arrays that `Encoder.transform` returns, or set "
                "`list_length` of `ShardedBatches`."
            )
    if columns is not x and hasattr(x, "element_spec"):
        return None
    first: Any = next(iter(columns.values()), None)
    return len(first) if hasattr(first, "shape") else None


def _inputs_of(data: Any) -> Any:
    return data[0] if isinstance(data, (tuple, list)) else data


def _check_alike(**arguments: int | None) -> None:
    """Raises `ValueError` in all processes unless their arguments are equal.

    Otherwise, the processes would wait for each other forever.
    """
    numbers = _hosts.of_processes([-1 if x is None else x for x in arguments.values()])
    for name, values in zip(arguments, numbers.T, strict=True):
        if len(set(values)) > 1:
            received = [None if x < 0 else int(x) for x in values]
            raise ValueError(
                f"`{name}` must be equal on all processes, because they compute each "
                f"batch together. Received: {received} from the processes."
            )
        devices, value = _hosts.local_devices(), int(values[0])
        if name in _BY_DEVICES and value > 0 and value % devices:
            raise ValueError(
                f"`{name}` must be divisible by the {devices} devices of a process. "
                f"Received: {value}."
            )


def _lengthened(x: Any, rows: int) -> Any:
    """Returns an array padded with zeros to this number of rows."""
    lacks = rows - len(x)
    if not lacks:
        return x
    return np.concatenate([x, np.zeros((lacks, *x.shape[1:]), x.dtype)])


def spread_variables(model: Any) -> list[Any]:
    """Returns the spread variables in files, in the same order in all processes.

    Raises:
        ValueError: If the optimizer cannot save the slots of spread tables.
    """
    optimizer = getattr(model, "optimizer", None)
    spread = [variable for variable in model.variables if is_spread(variable)]
    if optimizer is None or not any(variable.trainable for variable in spread):
        return spread
    if not hasattr(optimizer, "accepts_row_gradients"):
        raise ValueError(
            "The optimizer of a model whose tables are spread over hosts must be one "
            "of `fmlayers.optimizers`, because it is saved with the model. Received: "
            f"{type(optimizer).__name__}."
        )
    return [*spread, *(slot for slot in optimizer.variables if is_spread(slot))]
