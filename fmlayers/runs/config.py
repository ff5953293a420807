from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from fmlayers import _checks
from fmlayers._checks import coefficient, share
from fmlayers._types import (
    ADAGRAD_RATE,
    SYNTHETIC_CLICKS,
    Combiner,
    Loss,
    Method,
    OnDuplicate,
    OptimizerName,
    ScalerMethod,
    Task,
    Transform,
)
from fmlayers.data.kind_names import KINDS, is_kind, is_weighted, reads_numbers
from fmlayers.data.table_format import FileFormat, Quoting, TableFormat
from fmlayers.models.specs import find, registered, taking
from fmlayers.runs.methods import check_method, check_options, reads
from fmlayers.runs.settings import (
    ByMethod,
    ByOptimizer,
    ByTask,
    Setting,
    choice,
    coefficients,
    columns_by_name,
    flag,
    open_share,
    real,
    seed_number,
    setting,
    settings_of,
    sizes,
    texts,
    whole,
)
from fmlayers.runs.settings_text import documented

HISTORIES = ("user_history", "item_history")
# The losses of each task, the default first.
LOSSES = {"regression": ("mse",), "binary": ("bce",), "implicit": ("bpr", "bce")}
# Settings that only some tasks have.
OF_TASKS = {
    "positive_threshold": ("binary", "implicit"),
    "positive_weight": ("binary",),
    "target_transform": ("regression",),
}
HISTORY_L2 = 0.01  # on ratings; a history is many vectors pooled into one
# From the fields of `TableFormat` to the settings.
FILE_SETTINGS = {
    field.name: {"columns": "column_names"}.get(field.name, field.name)
    for field in fields(TableFormat)
}
# Sizes of the hidden layers that a search tries.
UNITS = ("16", "64", "32-16", "64-32", "64-64", "128-64", "64-32-16", "128-64-32")


def as_character(text: str) -> str:
    """Returns the character for the text of an option."""
    return "\t" if text in (r"\t", "tab") else text


def _of_which_columns() -> str:
    two = [name for name, s in registered().items() if s.columns == "user and item"]
    return f"user and item for {' and '.join(two)}, all but day for the others"


def _of_which_units() -> str:
    units = {name: find(name).hidden_units for name in taking("hidden_units")}
    return ", ".join(f"{' '.join(map(str, u))} for {name}" for name, u in units.items())


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a run. The same configuration gives the same run.

    The defaults were chosen on validation rows of MovieLens 100K and 1M, and those for
    labels on Frappe, Adult and MovieLens 100K, too. Some depend on the task.
    """

    data: str = setting(
        "synthetic",
        "data",
        "Source of the ratings: synthetic, synthetic-clicks (or "
        "synthetic-clicks:rows=N), a MovieLens folder or zip, a MovieLens name to "
        "download (ml-100k, ml-1m, ml-latest-small, ...), or a file: CSV, Parquet (or "
        "a folder), libsvm, libFM or libFFM",
        metavar="SOURCE",
    )
    test: str | None = setting(
        None,
        "data",
        "File of the test rows, with the columns of the data, instead of a share",
        metavar="FILE",
    )
    validation: str | None = setting(
        None,
        "data",
        "File of the rows held out for early stopping, instead of a share",
        more="The model is not trained on them.",
        metavar="FILE",
    )
    users: str | None = setting(
        None, "data", "File with a row per user and their columns", metavar="FILE"
    )
    items: str | None = setting(
        None, "data", "File with a row per item and its columns", metavar="FILE"
    )
    user_key: str | None = setting(
        None,
        "data",
        "Column of the users in their file",
        metavar="COLUMN",
        otherwise="the name of --user, or user",
    )
    item_key: str | None = setting(
        None,
        "data",
        "Column of the items in their file",
        metavar="COLUMN",
        otherwise="the name of --item, or item",
    )
    features: Sequence[str] | None = setting(
        None,
        "data",
        "Columns of the model, each COLUMN or COLUMN:KIND with one of the kinds "
        f"{', '.join(KINDS[:-1])} or {KINDS[-1]}",
        check=texts,
        many=True,
        metavar="COLUMN",
        otherwise=_of_which_columns,
    )
    kinds: Sequence[str] | None = setting(
        None,
        "data",
        "Kinds in place of the inferred ones, each COLUMN:KIND; COLUMN:none leaves a "
        "column out",
        more="Other columns stay as they are. The kinds are those of `features`.",
        check=texts,
        many=True,
        metavar="COLUMN:KIND",
        otherwise="the inferred kinds",
    )
    task: Task | None = choice(
        None,
        "data",
        "What to predict: a number (regression), a label with two values (binary), or "
        "which items a user chooses (implicit)",
        Task,
        more="The rows of implicit feedback are positives, for which negatives are "
        "sampled.",
        otherwise="binary for synthetic-clicks, implicit for the losses bce and bpr, "
        "else regression",
    )
    target: str = setting(
        "rating",
        "data",
        "Column to predict in a CSV file",
        metavar="COLUMN",
        former="rating",
    )
    positive_threshold: float | None = real(
        None,
        "data",
        "Lowest target of a positive, which is a label of 1 or a choice",
        check=_checks.number,
        metavar="TARGET",
    )
    positive_labels: Sequence[str] | None = setting(
        None,
        "data",
        "Values of the target that count as the label 1, all others as 0",
        check=texts,
        many=True,
        metavar="VALUE",
        otherwise="the greater one of two values",
    )
    target_transform: Transform = choice(
        "none",
        "data",
        "How numbers are transformed before training: none or log1p, for counts and "
        "other targets of at least 0 with a long tail",
        Transform,
        more="Predictions are in the unit of the target.",
    )
    weight: str | None = setting(
        None,
        "data",
        "Column with the weights of the rows, numbers of at least 0",
        more="They count in the loss and in the metrics of predicted targets.",
        metavar="COLUMN",
    )
    user: str = setting(
        "user",
        "data",
        "Column of the users in a CSV file",
        more="Only implicit feedback and recommendations need users and items.",
        metavar="COLUMN",
    )
    item: str = setting(
        "item", "data", "Column of the items in a CSV file", metavar="COLUMN"
    )
    user_columns: Sequence[str] | None = setting(
        None,
        "data",
        "Columns of the data that describe the user, one value per user",
        check=texts,
        many=True,
        metavar="COLUMN",
        otherwise="those that are recognized",
    )
    item_columns: Sequence[str] | None = setting(
        None,
        "data",
        "Columns of the data that describe the item, one value per item",
        more="A sampled negative and a candidate for a recommendation have the values "
        "of their item. Other columns describe the row.",
        check=texts,
        many=True,
        metavar="COLUMN",
        otherwise="those that are recognized",
    )
    timestamp: str | None = setting(
        None, "data", "Column of the timestamps in a CSV file", metavar="COLUMN"
    )
    on_duplicate: OnDuplicate | None = choice(
        None,
        "data",
        "What to do with rows of the same user and item in a CSV file: keep them, keep "
        "the last, replace them by the mean, sum or count of their targets, or stop",
        OnDuplicate,
        otherwise="last for implicit feedback, else keep",
    )
    weights_of: Mapping[str, str] = setting(
        {},
        "data",
        "Columns with the weights of weighted columns, which have them apart",
        check=columns_by_name,
        many=True,
        metavar="COLUMN=COLUMN",
        otherwise="a weighted column has its weights",
    )
    min_count: int = whole(
        1, "data", "Minimum number of occurrences; rarer values count as unknown"
    )
    split: str = setting(
        "random",
        "data",
        "How test rows are chosen: random, user, time or the name of an official fold",
    )
    test_fraction: float = real(
        0.2, "data", "Share of the test rows", check=open_share, metavar="SHARE"
    )
    validation_fraction: float = real(
        0.1,
        "data",
        "Share of the training rows held out for early stopping; 0 trains for all "
        "epochs",
        check=share,
        metavar="SHARE",
    )
    seed: int = whole(
        0,
        "data",
        "Seed of split, weights and batches",
        check=seed_number,
        metavar="SEED",
    )

    separator: str = setting(
        ",",
        "file",
        r"Character between the fields of a CSV file, \t for a tab",
        read=as_character,
        metavar="CHAR",
    )
    encoding: str = setting(
        "utf-8",
        "file",
        "Encoding of a CSV file, such as latin-1 or utf-16",
        metavar="NAME",
    )
    column_names: Sequence[str] | None = setting(
        None,
        "file",
        "Names of the columns of a CSV file without a header",
        check=texts,
        many=True,
        option="columns",
        metavar="COLUMN",
        otherwise="those in the first line",
    )
    quoting: Quoting = choice(
        "auto",
        "file",
        "Whether quotation marks enclose fields of a CSV file: always, never, or auto, "
        "which refuses a field that spans lines which may be rows",
        Quoting,
    )
    missing: Sequence[str] | None = setting(
        None,
        "file",
        "Texts that stand for a missing value, as empty cells do",
        more="In the columns of users and items, they are ids.",
        check=texts,
        many=True,
        metavar="TEXT",
        otherwise=r"NA, N/A, NaN, NULL, None, \N and ? among numbers",
    )
    thousands: str | None = setting(
        None,
        "file",
        "Character between groups of three digits",
        metavar="CHAR",
    )
    decimal: str = setting(
        ".", "file", "Character before decimal places", metavar="CHAR"
    )
    list_separator: str = setting(
        "|", "file", "Text between the values of a list", metavar="TEXT"
    )
    format: FileFormat = choice(
        "auto",
        "file",
        "Format of a text file",
        FileFormat,
        otherwise="auto, by the first line",
    )

    model: str = setting("fm", "model", "Name of the model")
    method: Method = choice(
        "gradient",
        "model",
        "How the weights are estimated: by gradient descent, or by samples from their "
        "posterior distribution, which suit ratings of up to a few million rows",
        Method,
        more="See `fmlayers.bayes.GibbsSampler`.",
    )
    histories: bool = flag(
        False,
        "model",
        "Whether to add the items that a user has rated, and the users who have rated "
        "an item, as fields",
        more="See `History`.",
        option_help="add the items that a user has rated, and the users who have rated "
        "an item, as fields",
    )
    loss: Loss | None = choice(
        None,
        "model",
        "Loss: mse for numbers, bce for labels, bpr or bce for implicit feedback",
        Loss,
        more="The squared error, the cross-entropy or `fmlayers.losses.BPR`. With "
        "implicit feedback, the scores rank items and are not ratings.",
        otherwise="mse, bce or bpr, by task",
    )
    positive_weight: float = real(
        1.0,
        "model",
        "Weight of the label 1 in the loss",
        more="The probabilities stay calibrated; see "
        "`fmlayers.losses.BalancedCrossentropy`.",
        metavar="WEIGHT",
    )
    negatives: int = whole(
        4,
        "model",
        "Negatives sampled per positive, for implicit feedback",
    )
    members: int = whole(
        1,
        "model",
        "Number of models that are trained together and averaged",
        more="See `Ensemble`.",
    )
    dim: int = whole(
        ByMethod(64, gibbs=20), "model", "Embedding dimension", searched=(4, 256)
    )
    init_stddev: float = real(
        0.01,
        "model",
        "Standard deviation of the initial embeddings",
        more="Many averaged members may start further apart, 0.03 to 0.05.",
        metavar="S",
        searched=(0.001, 0.1),
    )
    l2: float = real(
        ByTask(0.06, implicit=0.002, binary=0.01),
        "model",
        "L2 of the embeddings",
        metavar="L2",
        more="See `FeatureEmbedding`.",
        check=coefficient,
        searched=(0.001, 1.0),
    )
    l2_of: Mapping[str, float] = setting(
        {},
        "model",
        "L2 of the embeddings of single features, instead of l2",
        more="The default of histories stands here, once the configuration is made.",
        otherwise=f"{HISTORY_L2} for histories, on ratings",
        check=coefficients,
        many=True,
        metavar="FEATURE=L2",
    )
    linear_l2: float = real(
        ByTask(0.01, implicit=0.002, binary=0.002),
        "model",
        "L2 of the first-order term",
        metavar="L2",
        check=coefficient,
        searched=(0.0001, 0.1),
    )
    hidden_units: Sequence[int] | None = whole(
        None,
        "model",
        "Sizes of the hidden layers",
        otherwise=_of_which_units,
        check=sizes,
        many=True,
        searched=UNITS,
    )
    dropout: float = real(
        0.0,
        "model",
        "Dropout rate of the hidden layers",
        check=share,
        metavar="SHARE",
        searched=(0.0, 0.6),
    )
    combiner: Combiner = choice(
        "mean",
        "model",
        "How several values of a column, such as genres, are pooled",
        Combiner,
        more="See `MaskedMeanPooling`.",
    )
    scaler: ScalerMethod = choice(
        "clip",
        "model",
        "How scores become ratings between the lowest and the highest of the training "
        "rows",
        ScalerMethod,
        more="See `RatingScaler`.",
    )

    sweeps: int = whole(
        200, "training", "Sweeps of a chain, for the method gibbs", metavar="N"
    )
    chains: int = whole(
        4, "training", "Chains that are sampled and averaged, for the method gibbs"
    )
    optimizer: OptimizerName = choice(
        "adagrad",
        "training",
        "Optimizer",
        OptimizerName,
        more="One of `fmlayers.optimizers`.",
    )
    learning_rate: float = real(
        ByOptimizer(
            {
                "adagrad": ByTask(
                    ADAGRAD_RATE, implicit=0.1, binary=0.05, histories=0.015
                ),
                "lazy_adam": ByTask(
                    0.001, implicit=0.001, binary=0.001, histories=0.0005
                ),
            }
        ),
        "training",
        "Learning rate of the optimizer",
        metavar="RATE",
        searched={"adagrad": (0.005, 0.5), "lazy_adam": (0.0001, 0.01)},
    )
    row_wise: bool = flag(
        False,
        "training",
        "Whether the optimizer keeps one mean of squares per row of a table instead of "
        "one per number",
        more="It then takes less memory and time, at about the same accuracy.",
        option_help="keep one mean of squares per row of a table in the optimizer "
        "instead of one per number",
    )
    batch_size: int | None = whole(
        None,
        "training",
        "Rows per step",
        otherwise="the power of two that makes about 160 steps an epoch, from 16 (64 "
        "for ratings with Adagrad) to 8192",
        metavar="ROWS",
        searched=(16, 8192),
    )
    max_epochs: int = whole(100, "training", "Maximum number of epochs")
    patience: int = whole(
        3, "training", "Epochs without a better validation metric before stopping"
    )
    refit: bool = flag(
        True,
        "training",
        "Whether to train again on all training rows, for the best number of epochs",
        option_help="keep the model of the search, which was not trained on the "
        "validation rows",
    )

    def __post_init__(self) -> None:
        spec = find(self.model)
        self._set_task()
        for name, known in settings_of(type(self)).items():
            value = getattr(self, name)
            if value is None and known.has_rule:
                value = known.chosen(self)
            if value is not None or not known.optional:
                value = known.check(name, value)
            object.__setattr__(self, name, value)
            if not spec.takes(name) and not known.is_default(value):
                raise ValueError(
                    f"`{name}` must be left out: it is a setting of the models "
                    f"{taking(name)}. Received: model={self.model!r}, {name}={value!r}."
                )
        check_method(self, settings_of(type(self)))
        _ = self.table_format  # checks the characters
        self._check_labels()
        self._check_tables()
        is_fitted = self.task == "regression" and self.method == "gradient"
        if self.histories and is_fitted:
            of_histories = dict.fromkeys(HISTORIES, HISTORY_L2)
            object.__setattr__(self, "l2_of", {**of_histories, **self.l2_of})

    def _set_task(self) -> None:
        """Sets the task, the loss and the handling of duplicates, if left out."""
        task: str | None = self.task
        is_label = str(self.data).partition(":")[0] == SYNTHETIC_CLICKS
        if task is None and is_label and self.loss in (None, "bce"):
            task = "binary"
        elif task is None:
            task = "implicit" if self.loss in ("bce", "bpr") else "regression"
        losses = LOSSES.get(str(task), ())
        loss = losses[0] if self.loss is None and losses else self.loss
        duplicates = "last" if task == "implicit" else "keep"
        for name, value in {
            "task": task,
            "loss": loss,
            "on_duplicate": self.on_duplicate or duplicates,
        }.items():
            object.__setattr__(self, name, value)
        if losses and loss in get_args(Loss) and loss not in losses:
            raise ValueError(
                f"`loss` must be {' or '.join(losses)} for the task {task!r}. "
                f"Received: loss={loss!r}."
            )
        for name, tasks in OF_TASKS.items():
            value = getattr(self, name)
            if task not in tasks and value != settings_of(type(self))[name].default:
                raise ValueError(
                    f"`{name}` must be left out for the task {task!r}. "
                    f"Received: {name}={value!r}."
                )

    def _check_labels(self) -> None:
        """Checks that positive labels are those of a task with labels."""
        if self.positive_labels is None:
            return
        if self.task != "binary" or self.positive_threshold is not None:
            raise ValueError(
                "`positive_labels` must be used with the task 'binary' and without "
                f"`positive_threshold`. Received: task={self.task!r}, "
                f"positive_threshold={self.positive_threshold!r}."
            )

    def _check_tables(self) -> None:
        """Checks that settings for tables of their own have a table."""
        for table, replaced in (
            ("test", ("split", "test_fraction")),
            ("validation", ("validation_fraction",)),
        ):
            for name in replaced if getattr(self, table) else ():
                value = getattr(self, name)
                # 0 trains for all epochs; the rows of the file stay held out.
                if not SETTINGS[name].is_default(value) and value != 0:
                    raise ValueError(
                        f"`{name}` must be left out with `{table}`. "
                        f"Received: {name}={value!r}."
                    )

    @property
    def table_format(self) -> TableFormat:
        """The format of the data."""
        return TableFormat(
            **{name: getattr(self, setting) for name, setting in FILE_SETTINGS.items()}
        )

    @property
    def described_split(self) -> str:
        """The split as text."""
        if self.test is None:
            return f"split {self.split}"
        return f"test rows of {Path(self.test).name}"

    def columns_of_a_table(self) -> dict[str, Any]:
        """Returns the arguments of `fmlayers.data.load` that describe a CSV file."""
        names = (
            *("user", "item", "timestamp", "weight", "on_duplicate", "table_format"),
            *("test", "validation", "users", "items", "user_key", "item_key"),
        )
        is_label = self.task == "binary" and self.positive_threshold is None
        entries = (*(self.features or ()), *(self.kinds or ()))
        kinds = [entry.rpartition(":")[::2] for entry in entries]
        kinds = [(column, kind) for column, kind in kinds if is_kind(kind)]
        kinds += [
            (name, "weighted") for pair in self.weights_of.items() for name in pair
        ]
        return {
            **{name: getattr(self, name) for name in names},
            "rating": self.target,
            "text_columns": [c for c, kind in kinds if not reads_numbers(kind)],
            "numeric_columns": [c for c, kind in kinds if reads_numbers(kind)],
            "weighted_columns": [c for c, kind in kinds if is_weighted(kind)],
            "is_label": is_label,
            "positive_labels": self.positive_labels or (),
            "needs_pairs": self.task == "implicit",
        }

    @property
    def named_kinds(self) -> set[str]:
        """The names of the columns whose kinds are settings."""
        entries = (*(self.features or ()), *(self.kinds or ()))
        return {entry.rpartition(":")[0] for entry in entries} - {""}

    @property
    def written_lists(self) -> dict[str, Any]:
        """The arguments of `infer_columns` and `describe_columns` on lists."""
        return {"list_separator": self.list_separator, "weights": self.weights_of}

    def to_dict(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> "TrainingConfig":
        """Returns the configuration of options that the user has set.

        Raises:
            ValueError: If a value is invalid, or the method does not read a setting,
                even if its value is the default.
        """
        config = cls(**options)
        check_options(config, options, settings_of(cls))
        return config

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "TrainingConfig":
        """Returns the configuration in a run's record, of this version or an older one.

        Other entries of the record are ignored, and so are settings that its model or
        its method does not read. A missing setting has its default, which is how
        versions without the setting behaved.
        """
        spec = find(record.get("model", "fm"))
        method = record.get("method", "gradient")
        values = {}
        for name, known in settings_of(cls).items():
            written = name if name in record else known.former or name
            is_read = spec.takes(name) and reads(method, name, known)
            if written in record and is_read:
                values[name] = record[written]
        if "missing" not in record:  # of a version where only empty cells were
            values["missing"] = ()
        if "task" not in record:  # of version 0.1.0
            values["on_duplicate"] = "last"
        return cls(**values)


SETTINGS: Mapping[str, Setting] = settings_of(TrainingConfig)

TrainingConfig.__doc__ = f"{TrainingConfig.__doc__}\n{documented(SETTINGS)}"
