from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from fmlayers._checks import coefficient, integer, integers, number, share
from fmlayers._types import (
    ADAGRAD_RATE,
    Combiner,
    Loss,
    OptimizerName,
    ScalerMethod,
)
from fmlayers.models.specs import find, taking

HISTORIES = ("user_history", "item_history")
HISTORY_L2 = 0.01  # of ratings; a history is many vectors pooled into one


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What a run is made of; the same configuration gives the same run.

    The defaults were chosen on validation rows of MovieLens 100K and 1M. Those of
    `l2`, `linear_l2` and `learning_rate` depend on what is learned:

    | | ratings | ratings, with histories | clicks |
    | --- | --- | --- | --- |
    | `l2` | 0.06 | 0.06, of histories 0.01 | 0.002 |
    | `linear_l2` | 0.01 | 0.01 | 0.002 |
    | `learning_rate` of `"adagrad"` | 0.05 | 0.015 | 0.1 |
    | `learning_rate` of `"lazy_adam"` | 0.001 | 0.0005 | 0.001 |

    Args:
        data: Source of the ratings, as of `fmlayers.data.load`.
        model: Name of the model, `"fm"`, `"mf"`, `"deepfm"`, `"libfm"` or `"neumf"`.
        features: Optional columns of the model, each `"name"` or `"name:kind"`.
            Defaults to user and item for `"mf"` and `"neumf"`, to all columns but
            the day for the others.
        user, item, rating, timestamp, separator: How a CSV names its columns.
        histories: Whether the model has the items that a user has rated, and the
            users who have rated an item, as fields (see `History`).
        loss: `"mse"`, or for ratings taken as clicks, whatever their height: `"bce"`
            (binary cross-entropy) or `"bpr"` (see `fmlayers.losses.BPR`). Such a model
            ranks; its scores are no ratings.
        negatives: Items drawn for each rating, of those that its user has not rated,
            where the loss is not `"mse"`.
        members: How many models are trained side by side and averaged (see
            `Ensemble`); 1 for a model alone.
        split: `"random"`, `"user"`, `"time"` or the name of an official fold.
        test_fraction: Share of the rows to test on.
        validation_fraction: Share of the training rows to stop on; 0 trains for
            `max_epochs`.
        refit: Whether to train again on all training rows, for the epochs found.
        seed: Seed of the split, the validation rows, the weights and the batches.
        dim: Size of a vector.
        init_stddev: Standard deviation of the numbers that vectors start from. Many
            averaged members may start further apart, 0.03 to 0.05.
        l2: L2 of the vectors (see `FeatureEmbedding`), by default as above.
        l2_of: L2 of the vectors of single features, in place of `l2`. The default of
            histories stands here, once the configuration is made.
        linear_l2: L2 of the first-order term, by default as above.
        hidden_units: Sizes of the hidden layers of `"deepfm"` and `"neumf"`. Defaults
            to those of the models.
        dropout: Share of a hidden layer's outputs that training drops.
        combiner: How several values of a column, such as genres, are pooled, `"mean"`,
            `"sum"` or `"sqrtn"`; see `MaskedMeanPooling`.
        scaler: Method of the `RatingScaler`, whose bounds are the lowest and the
            highest rating of the training rows.
        min_count: Rarer values count as unknown.
        optimizer: `"adagrad"` or `"lazy_adam"`, of `fmlayers.optimizers`.
        learning_rate: Of the optimizer, by default as above.
        batch_size: Rows a step. By default the power of two that makes about 160
            steps an epoch, within 16 and 8192.
        max_epochs: Where to stop at the latest.
        patience: Epochs without a better validation RMSE before stopping.
    """

    data: str = "synthetic"
    model: str = "fm"
    features: Sequence[str] | None = None
    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    timestamp: str | None = None
    separator: str = ","
    histories: bool = False
    loss: Loss = "mse"
    negatives: int = 4
    members: int = 1
    split: str = "random"
    test_fraction: float = 0.2
    validation_fraction: float = 0.1
    refit: bool = True
    seed: int = 0
    dim: int = 64
    init_stddev: float = 0.01
    l2: float = None  # type: ignore[assignment]  # until `__post_init__`
    l2_of: Mapping[str, float] = field(default_factory=dict)
    linear_l2: float = None  # type: ignore[assignment]
    hidden_units: Sequence[int] | None = None
    dropout: float = 0.0
    combiner: Combiner = "mean"
    scaler: ScalerMethod = "clip"
    min_count: int = 1
    optimizer: OptimizerName = "adagrad"
    learning_rate: float = None  # type: ignore[assignment]
    batch_size: int | None = None
    max_epochs: int = 100
    patience: int = 3

    def __post_init__(self) -> None:
        spec = find(self.model)
        if self.loss not in get_args(Loss):
            raise ValueError(
                f'`loss` must be "mse", "bce" or "bpr". Received: loss={self.loss!r}.'
            )
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(
                '`optimizer` must be "adagrad" or "lazy_adam". '
                f"Received: optimizer={self.optimizer!r}."
            )
        for name, value in self._chosen().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.histories and self.loss == "mse":
            of_histories = dict.fromkeys(HISTORIES, HISTORY_L2)
            object.__setattr__(self, "l2_of", {**of_histories, **self.l2_of})
        counts = ("dim", "members", "negatives", "min_count", "max_epochs", "patience")
        for name in counts:
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        for name in ("l2", "linear_l2"):
            object.__setattr__(self, name, coefficient(name, getattr(self, name)))
        l2_of = {
            name: coefficient("l2_of", value, of=f" for feature {name!r}")
            for name, value in self.l2_of.items()
        }
        object.__setattr__(self, "l2_of", l2_of)
        if self.hidden_units is not None and len(self.hidden_units):
            rule = "a non-empty list of positive integers"
            units = integers("hidden_units", self.hidden_units, rule)
            object.__setattr__(self, "hidden_units", units)
        object.__setattr__(self, "dropout", share("dropout", self.dropout))
        for name in ("hidden_units", "dropout"):
            if getattr(self, name) and not spec.takes(name):
                raise ValueError(
                    f"`{name}` must be left out: it is a setting of the models "
                    f"{taking(name)}. "
                    f"Received: model={self.model!r}, {name}={getattr(self, name)!r}."
                )
        if self.combiner not in get_args(Combiner):
            raise ValueError(
                '`combiner` must be "mean", "sum" or "sqrtn". '
                f"Received: combiner={self.combiner!r}."
            )
        seed = integer(
            "seed", self.seed, "from 0 to 2**32 - 1", least=0, most=2**32 - 1
        )
        object.__setattr__(self, "seed", seed)
        if self.scaler not in get_args(ScalerMethod):
            raise ValueError(
                '`scaler` must be "sigmoid", "clip" or "none". '
                f"Received: scaler={self.scaler!r}."
            )
        if self.batch_size is not None:
            size = integer("batch_size", self.batch_size)
            object.__setattr__(self, "batch_size", size)
        for name, rule, holds in (
            ("validation_fraction", "at least 0 and below 1", lambda x: 0.0 <= x < 1.0),
            (
                "test_fraction",
                "between 0 and 1, both excluded",
                lambda x: 0.0 < x < 1.0,
            ),
            ("learning_rate", "positive", lambda x: x > 0.0),
            ("init_stddev", "positive", lambda x: x > 0.0),
        ):
            value = number(name, getattr(self, name), rule, holds)
            object.__setattr__(self, name, value)

    def columns_of_a_table(self) -> dict[str, Any]:
        """Returns the arguments of `fmlayers.data.load` that a CSV needs."""
        names = ("user", "item", "rating", "timestamp", "separator")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        config = asdict(self)
        for name in ("features", "hidden_units"):
            if config[name] is not None:
                config[name] = list(config[name])
        config["l2_of"] = dict(self.l2_of)
        return config

    def _chosen(self) -> dict[str, float]:
        clicks = self.loss != "mse"
        rates = {
            "adagrad": (ADAGRAD_RATE, 0.015, 0.1),
            "lazy_adam": (0.001, 0.0005, 0.001),
        }
        return {
            "l2": 0.002 if clicks else 0.06,
            "linear_l2": 0.002 if clicks else 0.01,
            "learning_rate": rates[self.optimizer][
                2 if clicks else int(self.histories)
            ],
        }
