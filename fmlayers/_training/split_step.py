"""Training steps on TensorFlow that compile all but the sums of histories with XLA."""

from collections.abc import Mapping
from typing import Any

import keras

from fmlayers._histories.index import BatchHistories
from fmlayers._histories.sums import with_sums
from fmlayers._training.mode import with_xla
from fmlayers.features import History


class SplitStep:
    """Mixin for a `keras.Model` with a `History`, to be trained with `jit_compile`.

    XLA needs shapes that do not depend on the data, and takes three times as long for
    the sums of sparse rows. With `jit_compile=True` on TensorFlow, a step therefore
    computes the sums of the histories and their gradients outside of XLA, and the rest
    in three XLA programs: the rows to sum, the loss and its gradients, and the update.
    The batches must bring their histories along (`fmlayers.data.ShuffledBatches`);
    otherwise, and in evaluation and prediction, nothing is compiled with XLA.

    Put it before the Keras class.
    """

    features: Any
    _compiles_rest: bool = False

    @property
    def jit_compile(self) -> bool:
        """Whether Keras compiles whole steps with XLA."""
        return False if self._has_histories() else bool(super().jit_compile)  # type: ignore[misc]

    @jit_compile.setter
    def jit_compile(self, value: bool) -> None:
        if self._has_histories():
            self._compiles_rest = value
        else:
            keras.Model.jit_compile.fset(self, value)

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiles_rest and _are_prepared(self.features, args[0][0]):
            return self._split_step(*keras.utils.unpack_x_y_sample_weight(args[0]))
        return super().train_step(*args, **kwargs)  # type: ignore[misc]

    def _split_step(self, x: Any, y: Any, sample_weight: Any) -> Any:
        import tensorflow as tf

        model: Any = self
        weights = model.trainable_weights
        histories = model.shared_histories(x)
        x = {k: v for k, v in x.items() if not isinstance(v, BatchHistories)}

        def loss_and_gradients(x: Any, sums: Any, y: Any, sample_weight: Any) -> Any:
            totals = [each.total for each in sums]
            with tf.GradientTape() as tape:
                tape.watch(totals)
                for shared, each in zip(histories, sums, strict=True):
                    x = with_sums(x, shared.fields, each)
                y_pred = model(x, training=True)
                loss = model._compute_loss(x, y, y_pred, sample_weight, training=True)
                scaled = model.optimizer.scale_loss(loss)
            gradients, of_totals = tape.gradient(scaled, [weights, totals])
            # The tape below would take `None` for ones.
            pairs = zip(totals, of_totals, strict=True)
            of_totals = [tf.zeros_like(x) if g is None else g for x, g in pairs]
            return loss, y_pred, (gradients, of_totals)

        def tables() -> list[Any]:
            return [each.table() for each in histories]

        def update(gradients: Any, of_tables: Any) -> None:
            with tf.GradientTape() as tape:
                read = tables()
            others = tape.gradient(read, weights, output_gradients=of_tables)
            added = [_added(*each) for each in zip(gradients, others, strict=True)]
            model.optimizer.apply_gradients(zip(added, weights, strict=True))

        read = with_xla(tables)()
        with tf.GradientTape() as tape:
            tape.watch(read)
            pairs = zip(histories, read, strict=True)
            sums = [each.sums_of(table) for each, table in pairs]
            totals = [each.total for each in sums]
        loss, y_pred, (gradients, of_totals) = with_xla(loss_and_gradients)(
            x, sums, y, sample_weight
        )
        of_tables = tape.gradient(totals, read, output_gradients=of_totals)
        with_xla(update)(gradients, of_tables)
        model._loss_tracker.update_state(loss, sample_weight=tf.shape(y_pred)[0])
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _has_histories(self) -> bool:
        is_tensorflow = keras.backend.backend() == "tensorflow"
        features = getattr(self, "features", ())
        return is_tensorflow and any(isinstance(each, History) for each in features)


def _are_prepared(features: Any, inputs: Mapping[str, Any]) -> bool:
    """Returns whether the batch brings its histories along, in one replica."""
    import tensorflow as tf

    names = [feature.name for feature in features if isinstance(feature, History)]
    is_alone = tf.distribute.get_strategy().num_replicas_in_sync == 1
    return is_alone and all(
        isinstance(inputs.get(name), BatchHistories) for name in names
    )


def _added(gradient: Any, other: Any) -> Any:
    """Returns the sum of two gradients, of which either may be `None`."""
    import tensorflow as tf

    if gradient is None or other is None:
        return other if gradient is None else gradient
    if isinstance(gradient, tf.IndexedSlices) and isinstance(other, tf.IndexedSlices):
        return tf.IndexedSlices(
            tf.concat([gradient.values, other.values], 0),
            tf.concat([gradient.indices, other.indices], 0),
            gradient.dense_shape,
        )
    return tf.convert_to_tensor(gradient) + tf.convert_to_tensor(other)
