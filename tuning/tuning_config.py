from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from fmlayers._checks import choice, integer
from fmlayers._types import Method
from fmlayers.models.specs import find, registered
from fmlayers.runs import TrainingConfig
from fmlayers.runs.config import SETTINGS
from fmlayers.runs.methods import SAMPLING_VALUES, reads
from fmlayers.runs.trainer import metric_of

TunerName = Literal["random", "bayesian", "hyperband"]
RANKING = {"val_ndcg": "ndcg", "val_map": "map"}


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """The configuration of a study; the same configuration runs the same trials.

    Args:
        training: `TrainingConfig` that all trials share: the data, their split, the
            validation rows, `max_epochs` and `patience`. Its values of the
            hyperparameters are the defaults, which the first trial uses.
        models: Names of the models to search over. Defaults to `training.model`.
        methods: Methods to search over: `"gradient"`, `"gibbs"` or both. Defaults to
            `training.method`. The others' settings do not apply to a trial.
        fields: Names of features with a separate L2 hyperparameter, `l2/FIELD`, in
            addition to those in `training.l2_of` and `search`.
        search: Optional dict from the name of a hyperparameter to its values: a range
            `"0.01:0.1"`, some values `"16,32"`, or `""` for all of them (see
            `fmlayers.tuning.spaces`). All other hyperparameters keep their defaults. If
            omitted, all hyperparameters are searched.
        fixed: Names of hyperparameters that keep their defaults unless `search` names
            them.
        tuner: `"random"`, `"bayesian"` or `"hyperband"`. Defaults to `"random"`.
        objective: Metric on the validation rows by which trials are compared:
            `"val_rmse"` for ratings, `"val_bce"` or `"val_bpr"` for implicit feedback
            (the one of the loss), or `"val_ndcg"` or `"val_map"` for top-N
            recommendations. Defaults to the metric of the loss.
        k: Number of recommendations per user. Defaults to 10.
        seed: Seed of the tuner. `training.seed` is the seed of the rows, weights and
            batches of each trial. Defaults to 0.
        memory_limit: Maximum size of a trial's weights and optimizer state in bytes.
            Defaults to half of the machine's memory, divided among its workers.

    Raises:
        ValueError: If an argument violates its constraint.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    models: Sequence[str] = ()
    methods: Sequence[str] = ()
    fields: Sequence[str] = ()
    search: Mapping[str, str] | None = None
    fixed: Sequence[str] = ()
    tuner: TunerName = "random"
    objective: str = ""
    k: int = 10
    seed: int = 0
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        training = self.training
        models = tuple(self.models) or (training.model,)
        specs = registered()
        if set(models) - set(specs) or len(set(models)) < len(models):
            raise ValueError(
                f"`models` must be among {list(specs)}, each once. "
                f"Received: models={list(models)}."
            )
        if training.features is None and any(
            specs[model].columns == "user and item" for model in models
        ):
            training = replace(training, features=("user", "item"))
        if training.model not in models:
            training = replace(training, model=models[0])
        methods = tuple(self.methods) or (training.method,)
        _check_methods(methods, models, training, self.tuner)
        if training.method not in methods:
            training = of_method(training, methods[0])
        with_l2 = [name[3:] for name in self.search or () if name.startswith("l2/")]
        default = f"val_{metric_of(training)}"
        objectives = [default, *RANKING]
        for name, value in {
            "training": training,
            "models": models,
            "methods": methods,
            "fields": tuple(dict.fromkeys([*training.l2_of, *self.fields, *with_l2])),
            "fixed": tuple(sorted(set(self.fixed))),
            "objective": self.objective or default,
        }.items():
            object.__setattr__(self, name, value)
        choice("tuner", self.tuner, get_args(TunerName))
        if self.objective not in objectives:
            raise ValueError(
                f"`objective` must be among {objectives} for the loss "
                f"{training.loss!r}. "
                f"Received: objective={self.objective!r}."
            )
        if not training.validation_fraction:
            raise ValueError(
                "`validation_fraction` must be positive, since trials are compared on "
                "validation rows. Received: validation_fraction=0."
            )
        for name, rule, least in (
            ("k", "positive", 1),
            ("seed", "at least 0", 0),
            ("memory_limit", "positive", 1),
        ):
            value = getattr(self, name)
            if value is not None:
                value = integer(name, value, rule, least=least)
                object.__setattr__(self, name, value)

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether to minimize or to maximize the objective."""
        return "max" if self.objective in RANKING else "min"

    @property
    def towers(self) -> list[str]:
        """The names of the models that have hidden layers."""
        return self.taking("hidden_units")

    def taking(self, setting: str) -> list[str]:
        """Returns the names of the models that take a setting."""
        return [model for model in self.models if find(model).takes(setting)]

    def to_dict(self) -> dict[str, Any]:
        names = ("tuner", "objective", "k", "seed", "memory_limit")
        return {
            "training": self.training.to_dict(),
            "models": list(self.models),
            "methods": list(self.methods),
            "fields": list(self.fields),
            "search": None if self.search is None else dict(self.search),
            "fixed": list(self.fixed),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        models: Sequence[str] = (),
        methods: Sequence[str] = (),
        **options: Any,
    ) -> "TuningConfig":
        """Returns a configuration that fixes some settings and searches the others.

        Args:
            settings: Arguments of `TrainingConfig`, by name. With several `models`, the
                default model is the first that takes all of these settings.
            models: See the class.
            methods: See the class. With several, the default method is the first that
                reads all of these settings.
            **options: Other arguments of the class.
        """
        fixed = [*settings, *(f"l2/{name}" for name in settings.get("l2_of", ()))]
        if len(models) == 1:
            fixed.append("model")
        if models:
            able = [m for m in models if all(map(find(m).takes, settings))]
            settings = {**settings, "model": (able or models)[0]}
        if methods:
            able = [
                m for m in methods if all(reads(m, n, SETTINGS[n]) for n in settings)
            ]
            settings = {**settings, "method": (able or methods)[0]}
        training = TrainingConfig(**settings)
        return cls(
            training=training, models=models, methods=methods, fixed=fixed, **options
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "TuningConfig":
        training = TrainingConfig.from_dict(config["training"])
        return cls(**{**config, "training": training})


def of_method(training: TrainingConfig, method: str) -> TrainingConfig:
    """Returns a configuration for another method, with the defaults of its settings."""
    if method == training.method:
        return training
    record = {**training.to_dict(), "method": method, "dim": None}
    if method == "gibbs":
        scalers, _ = SAMPLING_VALUES["scaler"]
        record["scaler"] = training.scaler if training.scaler in scalers else scalers[0]
    return TrainingConfig.from_dict(record)


def _check_methods(
    methods: Sequence[str],
    models: Sequence[str],
    training: TrainingConfig,
    tuner: str,
) -> None:
    known = get_args(Method)
    if set(methods) - set(known) or len(set(methods)) < len(methods):
        raise ValueError(
            f"`methods` must be among {list(known)}, each once. "
            f"Received: methods={list(methods)}."
        )
    if "gibbs" not in methods:
        return
    supported, remedy = SAMPLING_VALUES["model"]
    if set(models) - set(supported):
        raise ValueError(
            f"`models` must be {list(supported)} with the method 'gibbs'. {remedy} "
            f"Received: models={list(models)}."
        )
    tasks, remedy = SAMPLING_VALUES["task"]
    if training.task not in tasks:
        raise ValueError(
            f"`task` must be {' or '.join(map(repr, tasks))} with the method 'gibbs'. "
            f"{remedy} Received: task={training.task!r}."
        )
    if tuner == "hyperband":
        raise ValueError(
            "`tuner` must be 'random' or 'bayesian' with the method 'gibbs', which has "
            "no epochs. Received: tuner='hyperband'."
        )
