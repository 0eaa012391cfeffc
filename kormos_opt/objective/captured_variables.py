"""What f depends on beside the weights, and whether it has changed: loss weights, collocation points, frozen layers.

A callback may assign such variables in the middle of a fit. Then f is another function, and what a solver remembers of
it is out of date. Looking costs no evaluation: the variables that the traced graph reads are compared with what they
were.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from kormos_opt.keras_internals import graphs
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.model_state import ModelState


class CapturedVariables:
    """The variables that f reads, other than the weights and what an evaluation puts back.

    Args:
        parameters: The weights.
        state: What an evaluation moves and puts back.
        graph: The graph of f over a chunk, `None` when run eagerly: then the model's own variables are looked at.

    Attributes:
        may_change_unseen: Whether f reads what nobody can compare, such as Python values in an eager model.
        random_operations: The kinds of operations that draw other numbers in every call, such as `RandomUniform`.
        is_random: Whether f draws random numbers, such as the masks of dropout, which another cut draws differently.
    """

    def __init__(self, parameters: FlatParameters, state: ModelState, graph: tf.Graph | None):
        known = (*parameters.variables, *state.metrics, *state.seeds, *state.unread_statistics)
        self.random_operations = [] if graph is None else graphs.random_operations(graph)
        ids = {id(variable) for each in known for variable in keras_model.tensorflow_variables(each)}
        if graph is None:
            variables = [variable for each in state.variables for variable in keras_model.tensorflow_variables(each)]
            variables += state.bare_variables
        else:
            variables = graph.variables
        self._variables = [variable for variable in variables if id(variable) not in ids]
        self.may_change_unseen = graph is None or bool(self.random_operations) or graphs.reads_python(graph)
        seeds = {id(variable) for each in state.seeds for variable in keras_model.tensorflow_variables(each)}
        draws = bool(seeds) if graph is None else any(id(variable) in seeds for variable in graph.variables)
        self.is_random = draws or bool(self.random_operations)
        self._values: list = []
        self.remember()

    def foreign_names(self, model: keras.Model) -> list[str]:
        """The names of trainable variables that the model does not own, in a graph."""
        own = {id(each) for variable in model.variables for each in keras_model.tensorflow_variables(variable)}
        return [
            variable.name.split(":")[0]
            for variable in self._variables
            if variable.trainable and id(variable) not in own
        ]

    def remember(self) -> None:
        """Takes the values as they are now."""
        self._values = [variable.read_value() for variable in self._variables]

    def changed(self) -> list[str]:
        """The names of the variables that have other values than remembered."""
        pairs = zip(self._variables, self._values, strict=True)
        return [variable.name for variable, value in pairs if not _same(variable.read_value(), value)]


def _same(one, other):
    if one.shape != other.shape:
        return False
    same = tf.equal(one, other)
    if one.dtype.is_floating:
        same |= tf.math.is_nan(one) & tf.math.is_nan(other)
    return bool(tf.reduce_all(same))
