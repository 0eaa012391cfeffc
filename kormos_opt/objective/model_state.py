"""What a pass over the data moves in a model beside its weights: seeds, statistics of BatchNorm, states and metrics."""

import keras
import tensorflow as tf

from kormos_opt.keras_internals import model as keras_model


class ModelState:
    """The non-trainable variables and the metrics of a model, and whatever else its train step assigns.

    Args:
        model: A compiled model.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._untracked: list[tf.Variable] = []

    def adopt(self, assigned: list[tf.Variable]) -> None:
        """From here on, variables that the train step assigns and Keras does not track are put back too.

        Args:
            assigned: All that the train step assigns: states of recurrent layers and of random generators are among
                them. Those that are known already are left out.
        """
        known = [*self._model.variables, *self.metrics]
        ids = {id(each) for variable in known for each in keras_model.tensorflow_variables(variable)}
        self._untracked = [variable for variable in assigned if id(variable) not in ids]

    def save(self) -> list[tf.Tensor]:
        """The values of the non-trainable variables, and of those that were adopted."""
        values = [variable.value for variable in self._model.non_trainable_variables]
        return [tf.identity(value) for value in (*values, *self._untracked)]

    def restore(self, values: list[tf.Tensor]) -> None:
        """Assigns what `save` returned."""
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    @property
    def seeds(self) -> list[keras.Variable | tf.Variable]:
        """The states of the seed generators, each of shape `(2,)`."""
        return [each for each in self.variables if _is_seed(each)]

    @property
    def variables(self) -> list[keras.Variable | tf.Variable]:
        """All non-trainable variables, and those that were adopted."""
        return [*self._model.non_trainable_variables, *self._untracked]

    @property
    def bare_variables(self) -> list[tf.Variable]:
        """TensorFlow's own variables among the attributes of the model and its layers, which Keras does not know."""
        return keras_model.variables_in_attributes(self._model)

    def put_seeds_back(self, values: list[tf.Tensor]) -> None:
        """Assigns the states of the seed generators among what `save` returned."""
        for variable, value in zip(self.variables, values, strict=True):
            if _is_seed(variable):
                variable.assign(value)

    @property
    def unread_statistics(self) -> list[keras.Variable]:
        """The moving statistics that f does not depend on: those of layers that are not frozen."""
        return [variable for layer in self._norms() if layer.trainable for variable in layer.non_trainable_variables]

    @property
    def moving_statistics(self) -> list[keras.Variable]:
        """The moving means and variances of BatchNormalization."""
        return [variable for layer in self._norms() for variable in layer.non_trainable_variables]

    def save_moving_statistics(self) -> list[tf.Tensor]:
        """The values of the moving means and variances."""
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


def _is_seed(variable):
    return variable.name.split("/")[-1].split(":")[0] == "seed_generator_state"
