"""The search space of a study: from hyperparameters to the configuration of a run."""

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from keras_tuner import HyperParameters
from keras_tuner.engine.hyperparameters import Choice, Fixed, Float, Int

from fmlayers.data.kinds import kind_class
from fmlayers.models.specs import find
from fmlayers.runs import TrainingConfig
from fmlayers.runs.config import HISTORIES
from fmlayers.runs.examples import default_batch_size
from fmlayers.runs.model import check_columns
from fmlayers.tuning.hyperparameters import (
    register_choice,
    register_float,
    register_int,
    register_l2,
    register_learning_rate,
    register_setting,
    register_tower,
    search_values,
)
from fmlayers.tuning.tuning_config import TuningConfig, of_method

_UNITS = re.compile(r"[1-9]\d*(-[1-9]\d*)*")
SAMPLED_DIM = (4, 64)  # embedding dimensions of a sample
DIGITS = 4  # significant digits of a setting; workers exchange seven


class StudySpace:
    """The hyperparameters of a study, and the run that their values configure.

    Args:
        config: Configuration of the study.
        columns: Dict from the name of a column to its kind.
        rows: Number of training rows.

    Raises:
        ValueError: If a model does not take the columns, or `config.fields` names an
            unknown feature.
    """

    def __init__(
        self, config: TuningConfig, columns: Mapping[str, str], rows: int
    ) -> None:
        self.config = config
        self.has_multi_categorical = any(
            kind_class(kind).is_multiple for kind in columns.values()
        )
        training = config.training
        self.batch_size = training.batch_size or default_batch_size(training, rows)
        histories = HISTORIES if training.histories else ()
        for model in config.models:
            check_columns(find(model), list(columns), histories=bool(histories))
        known = [*columns, *histories]
        unknown = sorted(set(config.fields) - set(known))
        if unknown:
            raise ValueError(
                "A feature with an L2 of its own must be among the features "
                f"{known}. Received: {unknown}."
            )

    def __call__(self, hp: HyperParameters) -> TrainingConfig:
        """Registers the hyperparameters, and returns the configuration of their run."""
        config, base = self.config, self.config.training
        model = base.model
        if len(config.models) > 1:
            model = register_choice(hp, "model", config.models, base.model)
        method = base.method
        if len(config.methods) > 1:
            method = register_choice(hp, "method", config.methods, base.method)
        values: dict[str, Any] = {}
        if self.has_multi_categorical:
            values["combiner"] = register_setting(hp, "combiner", base.combiner)
        for each in config.methods:
            with self._scope_of(hp, each):
                settings = self._settings_of(hp, each)
            if each == method:
                values |= settings
        rounded = {name: _rounded(value) for name, value in values.items()}
        record = of_method(base, method).to_dict()
        return TrainingConfig.from_dict({**record, **rounded, "model": model})

    def _settings_of(self, hp: HyperParameters, method: str) -> dict[str, Any]:
        """Registers the hyperparameters of a method, and returns their settings."""
        config, base = self.config, of_method(self.config.training, method)
        if method == "gibbs":
            # The names of conditional hyperparameters must differ.
            name = "dim" if len(config.methods) == 1 else "dim/gibbs"
            return {"dim": register_int(hp, name, base.dim, SAMPLED_DIM)}
        values: dict[str, Any] = {
            "dim": register_int(hp, "dim", base.dim),
            "init_stddev": register_float(hp, "init_stddev", base.init_stddev),
            "l2": register_float(hp, "l2", base.l2),
            "l2_of": {
                field: register_l2(hp, field, base.l2_of.get(field, base.l2))
                for field in config.fields
            },
        }
        if config.taking("linear_l2"):
            values["linear_l2"] = register_float(hp, "linear_l2", base.linear_l2)
        if base.task == "regression":
            values["scaler"] = register_setting(hp, "scaler", base.scaler)
        values["optimizer"] = register_setting(hp, "optimizer", base.optimizer)
        rates = {name: self._rate(base, name) for name in search_values("optimizer")}
        values["learning_rate"] = register_learning_rate(hp, values["optimizer"], rates)
        # With much smaller batches, an epoch takes too long; with much larger ones, it
        # has too few steps.
        low, high = search_values("batch_size")
        bounds = max(low, self.batch_size // 8), min(high, self.batch_size * 8)
        values["batch_size"] = register_int(hp, "batch_size", self.batch_size, bounds)
        return values | self._tower(hp)

    def _scope_of(
        self, hp: HyperParameters, method: str
    ) -> contextlib.AbstractContextManager[None]:
        """Returns the scope of the hyperparameters of a method."""
        if len(self.config.methods) == 1:
            return contextlib.nullcontext()
        scope: contextlib.AbstractContextManager[None] = hp.conditional_scope(
            "method", [method]
        )
        return scope

    def whole(self) -> HyperParameters:
        """Returns all hyperparameters with all of their values."""
        hp = HyperParameters()
        self(hp)
        return hp

    def narrowed(self) -> HyperParameters:
        """Returns the hyperparameters for a tuner, limited by `search` and `fixed`.

        Raises:
            ValueError: If `search` names an unknown hyperparameter or invalid values.
        """
        search = self.config.search
        known = {parameter.name: parameter for parameter in self.whole().space}
        wanted = {self._full_name(name, known): v for name, v in (search or {}).items()}
        kept = {self._full_name(name, known) for name in self.config.fixed}
        unknown = sorted(set(wanted) - set(known))
        if unknown:
            raise ValueError(
                f"`search` must name hyperparameters among {list(known)}. "
                f"Received: {unknown}."
            )
        hp = HyperParameters()
        for name, parameter in known.items():
            if name not in wanted and (search is not None or name in kept):
                conditions = parameter.conditions
                hp.merge([Fixed(name, parameter.default, conditions=conditions)])
            elif wanted.get(name):
                hp.merge([_narrowed(parameter, wanted[name])])
            else:
                hp.merge([parameter])
        return hp

    def _rate(self, base: TrainingConfig, optimizer: str) -> float:
        if optimizer == base.optimizer:
            return base.learning_rate
        other: Any = {"optimizer": optimizer, "learning_rate": None}
        return replace(base, **other).learning_rate

    def _tower(self, hp: HyperParameters) -> dict[str, Any]:
        config, base = self.config, self.config.training
        if not config.towers:
            return {}
        default = base.hidden_units or find(config.towers[0]).hidden_units
        if len(config.towers) == len(config.models):
            return register_tower(hp, default, base.dropout)
        with hp.conditional_scope("model", config.towers):
            return register_tower(hp, default, base.dropout)

    def _full_name(self, name: str, known: Mapping[str, Any]) -> str:
        # `learning_rate` stands for the rate of the default optimizer.
        full = f"{name}/{self.config.training.optimizer}"
        return full if name not in known and full in known else name


def _narrowed(parameter: Any, values: str) -> Any:
    """Returns a hyperparameter with the values from `TuningConfig.search`."""
    name, default = parameter.name, parameter.default
    if isinstance(parameter, Fixed):
        raise ValueError(
            f"{name!r} must have a positive default to be searched, since its scale is "
            f"logarithmic. Received: default=0, values={values!r}."
        )
    options: dict[str, Any] = {"name": name, "conditions": parameter.conditions}
    low, colon, high = values.partition(":")
    if colon and isinstance(parameter, Int | Float):
        lowest, highest = _number(name, low), _number(name, high)
        less = "<" if parameter.min_value > 0 else "<="
        if not 0 <= lowest <= highest or (less == "<" and not lowest):
            raise ValueError(
                f"The range of {name!r} must be LOW:HIGH, with 0 {less} LOW <= HIGH. "
                f"Received: {values!r}."
            )
        options["sampling"] = parameter.sampling
        default = min(max(default, lowest), highest)
        if isinstance(parameter, Float):
            return Float(
                min_value=lowest, max_value=highest, default=default, **options
            )
        return Int(
            min_value=int(lowest),
            max_value=int(highest),
            step=2 if math.log2(highest / lowest).is_integer() else None,
            default=int(default),
            **options,
        )
    every: list[Any] = values.split(",")
    if isinstance(parameter, Int | Float):
        kind = int if isinstance(parameter, Int) else float
        every = [kind(_number(name, value)) for value in every]
    elif name == "hidden_units":
        if not all(_UNITS.fullmatch(value) for value in every):
            raise ValueError(
                "The values of 'hidden_units' must be sizes like 64-32. "
                f"Received: {values!r}."
            )
    elif set(every) - set(parameter.values):
        raise ValueError(
            f"The values of {name!r} must be among {list(parameter.values)}. "
            f"Received: {values!r}."
        )
    return Choice(
        values=every, default=default if default in every else every[0], **options
    )


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"The values of {name!r} must be numbers, LOW:HIGH or A,B,C. "
            f"Received: {text!r}."
        )
    return number


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}")
    return value
