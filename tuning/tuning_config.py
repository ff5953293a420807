from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from fmlayers._checks import integer
from fmlayers.models.specs import find, registered
from fmlayers.runs import TrainingConfig
from fmlayers.runs.training import metric_of

TunerName = Literal["random", "bayesian", "hyperband"]
RANKING = {"val_ndcg": "ndcg", "val_map": "map"}


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """What a study is made of; the same configuration tries the same trials.

    Args:
        training: What all trials have in common: the data and their split, the rows to
            validate on, `max_epochs` and `patience`. Of what is searched it holds the
            defaults, which the first trial has.
        models: Names of the models to choose among. Defaults to `training.model`.
        fields: Features that have an L2 of their own, `l2/FIELD`, besides those that
            `training.l2_of` or `search` names.
        search: Optional dict from the name of a hyperparameter to its values, and all
            others keep the defaults that `training` has: `"0.01:0.1"` for a range,
            `"16,32"` for some values, `""` for all that it may have (see
            `fmlayers.tuning.spaces`). Defaults to a search of all.
        fixed: Names of those that are searched where `search` names them alone.
        tuner: `"random"`, `"bayesian"` or `"hyperband"`, of KerasTuner.
        objective: What is best on the validation rows: `"val_rmse"`, or by the lists
            of their users `"val_ndcg"` or `"val_map"`; of a loss on clicks also
            `"val_bce"` or `"val_bpr"`. Defaults to that of the loss.
        k: Length of the lists.
        seed: Seed of the trials; `training.seed` is that of each trial's rows, weights
            and batches.
        memory_limit: Most bytes that a trial's weights and the optimizer's may take.
            Defaults to half of the machine's memory, parted among its workers.

    Raises:
        ValueError: If a setting breaks its constraint.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    models: Sequence[str] = ()
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
        own_l2 = [name[3:] for name in self.search or () if name.startswith("l2/")]
        own = f"val_{metric_of(training)}"
        known = [own, *RANKING]
        for name, value in {
            "training": training,
            "models": models,
            "fields": tuple(dict.fromkeys([*training.l2_of, *self.fields, *own_l2])),
            "fixed": tuple(sorted(set(self.fixed))),
            "objective": self.objective or own,
        }.items():
            object.__setattr__(self, name, value)
        if self.tuner not in get_args(TunerName):
            raise ValueError(
                f"`tuner` must be among {list(get_args(TunerName))}. "
                f"Received: tuner={self.tuner!r}."
            )
        if self.objective not in known:
            raise ValueError(
                f"`objective` of the loss {training.loss!r} must be among {known}. "
                f"Received: objective={self.objective!r}."
            )
        if not training.validation_fraction:
            raise ValueError(
                "`validation_fraction` must be positive: trials are compared on "
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
        """Whether the objective is to be low or high."""
        return "max" if self.objective in RANKING else "min"

    @property
    def towers(self) -> list[str]:
        """Those of the models that have hidden layers."""
        return self.taking("hidden_units")

    def taking(self, setting: str) -> list[str]:
        """Returns those of the models that take a setting."""
        return [model for model in self.models if find(model).takes(setting)]

    def to_dict(self) -> dict[str, Any]:
        names = ("tuner", "objective", "k", "seed", "memory_limit")
        return {
            "training": self.training.to_dict(),
            "models": list(self.models),
            "fields": list(self.fields),
            "search": None if self.search is None else dict(self.search),
            "fixed": list(self.fixed),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "TuningConfig":
        training = TrainingConfig.from_dict(config["training"])
        return cls(**{**config, "training": training})
