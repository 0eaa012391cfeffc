"""Functions that are traced into graphs, and what a graph does beside computing values: assign, draw, read Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_ASSIGNING = (
    "Assign",
    "ResourceApply",
    "ResourceSparseApply",
    "ResourceScatter",
    "ResourceStridedSliceAssign",
    "RngReadAndSkip",
)
_READING_PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def traced(function: Callable, **options) -> Any:
    """A `tf.function` without autograph, one of many with the same code: each model has its own.

    TensorFlow counts traces by the code, and would take the fifth model for the fifth trace of one function ("triggered
    tf.function retracing").

    Args:
        function: The function.
        **options: More arguments of `tf.function`.
    """
    made = tf.function(function, autograph=False, **options)
    made._omit_frequent_tracing_warning = True
    return made


def flat_call(function: tf.types.experimental.ConcreteFunction):
    """Calls `function` with flat tensors, past the matching of arguments, which takes as long as a small evaluation."""
    captured = function.captured_inputs
    return lambda *tensors: function._call_flat(list(tensors), captured)


def assigned_variables(graph: tf.Graph) -> list[tf.Variable]:
    """The variables that a function graph assigns, in the functions and loops that it calls too.

    Args:
        graph: The graph of a `tf.function`.
    """
    places = {internal.op.name: external for external, internal in graph.captures}
    definition = graph.as_graph_def()
    functions = {function.signature.name: function for function in definition.library.function}

    @functools.cache
    def of_function(name):
        """The places of the arguments that a function assigns."""
        function = functions[name]
        arguments = [argument.name for argument in function.signature.input_arg]
        return {arguments.index(each) for each in named(function.node_def) if each in arguments}

    def named(nodes):
        """The names of the resources that these nodes assign."""
        nodes = list(nodes)
        through = {node.name: node.input[0] for node in nodes if node.op in ("Identity", "Enter") and node.input}
        found = set()
        for node in nodes:
            inputs = [_base(name) for name in node.input if not name.startswith("^")]
            if node.op.startswith(_ASSIGNING):
                found.add(inputs[0])
            offset = 1 if node.op in ("If", "StatelessIf", "Case", "StatelessCase") else 0
            for called in _called(node, functions):
                found |= {inputs[place + offset] for place in of_function(called) if place + offset < len(inputs)}
        return {_origin(each, through) for each in found}

    resources = [places[name] for name in named(definition.node) if name in places]
    return [variable for variable in graph.variables if any(variable.handle is each for each in resources)]


def random_operations(graph: tf.Graph) -> list[str]:
    """The kinds of operations whose random numbers are others in every call, whatever the variables hold."""
    return sorted({node.op for node in _all_nodes(graph) if _draws(node)})


def reads_python(graph: tf.Graph) -> bool:
    """Whether a graph calls Python, whose values nobody can compare."""
    return any(node.op in _READING_PYTHON for node in _all_nodes(graph))


def _draws(node):
    return {"seed", "seed2"} <= set(node.attr) and (node.op.startswith("Random") or node.op in _OTHER_RANDOM)


_OTHER_RANDOM = {"TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial"}


def _all_nodes(graph):
    definition = graph.as_graph_def()
    return [*definition.node, *(node for function in definition.library.function for node in function.node_def)]


def _called(node, functions):
    """The names of the functions that a node calls."""
    for attribute in node.attr.values():
        for function in [attribute.func, *attribute.list.func]:
            if function.name in functions:
                yield function.name


def _base(name):
    """The node of an input such as `node:0` or `node:output:0`."""
    return name.split(":")[0]


def _origin(name, through):
    while name in through:
        name = _base(through[name])
    return name
