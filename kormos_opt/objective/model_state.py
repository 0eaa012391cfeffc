"""What a pass over the data moves in a model beside its weights: seeds, statistics of BatchNorm and metrics."""

import keras
import tensorflow as tf

from kormos_opt.keras_internals import model as keras_model


class ModelState:
    """The non-trainable variables and the metrics of a model.

    Args:
        model: A compiled model.
    """

    def __init__(self, model: keras.Model):
        self._model = model

    def save(self) -> list[tf.Tensor]:
        """The values of the non-trainable variables."""
        return [tf.identity(variable.value) for variable in self._model.non_trainable_variables]

    def restore(self, values: list[tf.Tensor]) -> None:
        """Assigns what `save` returned."""
        for variable, value in zip(self._model.non_trainable_variables, values, strict=True):
            variable.assign(value)

    def save_all(self) -> list[tf.Tensor]:
        """The values of the non-trainable variables and of the metrics."""
        return [*self.save(), *(tf.identity(variable.value) for variable in self.metrics)]

    def restore_all(self, values: list[tf.Tensor]) -> None:
        """Assigns what `save_all` returned."""
        variables = *self._model.non_trainable_variables, *self.metrics
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    @property
    def seeds(self) -> list[keras.Variable]:
        """The states of the seed generators, each of shape `(2,)`."""
        return [each for each in self._model.non_trainable_variables if each.name == "seed_generator_state"]

    @property
    def variables(self) -> list[keras.Variable]:
        """All non-trainable variables."""
        return list(self._model.non_trainable_variables)

    @property
    def bare_variables(self) -> list[tf.Variable]:
        """TensorFlow's own variables among the attributes of the model and its layers, which Keras does not know."""
        return keras_model.variables_in_attributes(self._model)

    def put_seeds_back(self, values: list[tf.Tensor]) -> None:
        """Assigns the states of the seed generators among what `save` returned."""
        for variable, value in zip(self._model.non_trainable_variables, values, strict=True):
            if variable.name == "seed_generator_state":
                variable.assign(value)

    @property
    def unread_statistics(self) -> list[keras.Variable]:
        """Those of `moving_statistics` that f does not depend on: of layers that are not frozen."""
        return [variable for layer in self._norms() if layer.trainable for variable in layer.non_trainable_variables]

    @property
    def moving_statistics(self) -> list[keras.Variable]:
        """The moving means and variances of BatchNormalization."""
        return [variable for layer in self._norms() for variable in layer.non_trainable_variables]

    def save_moving_statistics(self) -> list[tf.Tensor]:
        """Their values."""
        return [tf.identity(variable.value) for variable in self.moving_statistics]

    def assign_moving_statistics(self, values: list[tf.Tensor]) -> None:
        """Makes them those of an evaluation."""
        for variable, value in zip(self.moving_statistics, values, strict=True):
            variable.assign(value)

    def reset_metrics(self) -> None:
        """Forgets the rows that the metrics have seen."""
        self._model.reset_metrics()

    @property
    def metrics(self) -> list[keras.Variable]:
        """The variables of the metrics, which add up over rows."""
        return list(self._model.metrics_variables)

    def results(self, metrics: list[tf.Tensor], logs: dict) -> dict:
        """`logs` with the results of the metrics that they name, had their variables these values."""
        scope = keras.StatelessScope(state_mapping=list(zip(self.metrics, metrics, strict=True)))
        with scope:
            results = self._model.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _norms(self):
        layers = keras_model.layers(self._model)
        return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
