"""What a solver knows, on its way into files and back.

A solver in the graph keeps it in variables of the optimizer. A solver in numpy keeps it in arrays of its run; they are
copied when Keras saves the optimizer, and the next run goes on from those that Keras has loaded.
"""

import logging
import weakref
from typing import NamedTuple

import keras
import numpy as np

from kormos_opt.graph_solvers.variables import IN_FLOAT64, GraphSolverVariables, vector_dtype
from kormos_opt.objective.model_state import ModelState
from kormos_opt.solvers.base import ArraySpec
from kormos_opt.training.runs.run_state import RunState

SAVED_BY_DEFAULT = 256 * 2**20  # bytes that save_state="auto" puts into files
_PREFIX = "solver_"  # of the names of arrays in a file
_DRAWN = "data_"
_log = logging.getLogger("kormos_opt")


class DrawnData(NamedTuple):
    """Training data that a callback has put in place of what `fit` was given.

    Attributes:
        number: The number of the draw.
        arrays: x, y and sample_weight or less; empty before the first draw.
        given: The fingerprint of what `fit` was given: the drawn data belongs to fits on that.
    """

    number: int = 0
    arrays: tuple = ()
    given: int = 0


class SavesSolverState(keras.optimizers.Optimizer):
    """An optimizer whose files carry what its solver knows. Its base has `stages` and `save_state`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._solver_state = _Untracked()

    def variables_for(self, model: keras.Model, specs: dict[str, ArraySpec], dtype: str) -> GraphSolverVariables:
        """The variables of a solver in the graph: those saved with the optimizer, where they fit.

        Args:
            model: The model.
            specs: What the solver remembers.
            dtype: The precision of the objective.
        """
        saved = self._solver_state.variables
        seeds = len(ModelState(model).seeds)
        if saved is not None and saved.fit(specs, dtype):
            self._make_room_for_seeds(seeds)
            return self._solver_state.variables
        made = GraphSolverVariables.make(
            lambda shape, **named: keras.Variable(np.zeros(shape), **named), specs, dtype, seeds
        )
        if saved is None:
            self._solver_state.variables = made
        return made

    @property
    def drawn_data(self) -> DrawnData:
        """The training data that a callback has drawn, for files."""
        return self._solver_state.drawn_data

    @drawn_data.setter
    def drawn_data(self, drawn: DrawnData) -> None:
        self._solver_state.drawn_data = drawn

    def watch(self, run) -> None:
        """Files carry what this run knows, from here on."""
        self._solver_state.run = weakref.ref(run)

    @property
    def loaded_state(self) -> RunState | None:
        """What a file has brought and no run has taken yet."""
        return self._solver_state.loaded_arrays

    def loads_float64(self) -> bool:
        """Whether a file has brought a run whose f is computed in double precision by then."""
        if self.loaded_state is not None:
            return bool(self.loaded_state.float64)
        variables = self._solver_state.variables
        return variables is not None and int(variables.is_running.numpy()) == IN_FLOAT64

    def take_loaded_state(self) -> RunState | None:
        """What a file has brought, which is then gone here."""
        loaded, self._solver_state.loaded_arrays = self._solver_state.loaded_arrays, None
        return loaded

    def has_lost_state(self) -> bool:
        """Whether a solver has worked on the model before, and neither its file nor compile() has kept what it knew."""
        is_kept = self.stages[0].is_in_graph or self.loaded_state is not None
        return int(self.iterations.numpy()) > 0 and not is_kept

    def save_own_variables(self, store):
        """Saves the optimizer as Keras does, and the arrays of a suspended run."""
        run = self._solver_state.run()
        state = None if run is None else run.state()
        variables = self._solver_state.variables
        own = [] if variables is None else [each for each in variables.all if self._index_of(each) is not None]
        size = sum(int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize for each in own)
        size += 0 if state is None else state.size
        left_out = size > 0 and not self._saves(size)
        skipped = {self._index_of(each) for each in own} if left_out else ()
        for i, variable in enumerate(self._variables):
            if i not in skipped:
                store[str(i)] = np.asarray(variable)
        if state is not None and not left_out:
            for name, array in state.to_arrays().items():
                store[_PREFIX + name] = array
        drawn = self.drawn_data
        for i, array in enumerate(drawn.arrays):
            if array is not None:
                store[f"{_DRAWN}{drawn.number}_{i}_{drawn.given}"] = np.asarray(array)

    def load_own_variables(self, store):
        """Reads what `save_own_variables` has written, with room for as many seeds as the file has."""
        names = list(store.keys())
        run = self._solver_state.run()
        if run is not None:
            run.is_superseded = True
        self.drawn_data = _drawn(store, [name for name in names if name.startswith(_DRAWN)])
        names = [name for name in names if not name.startswith(_DRAWN)]
        arrays = {name.removeprefix(_PREFIX): np.array(store[name]) for name in names if name.startswith(_PREFIX)}
        self._solver_state.loaded_arrays = RunState.from_arrays(arrays) if arrays else None
        values = {name: store[name] for name in names if not name.startswith(_PREFIX)}
        variables = self._solver_state.variables
        index = None if variables is None else self._index_of(variables.seeds)
        if index is not None and str(index) in values:
            self._make_room_for_seeds(values[str(index)].shape[0])
        super().load_own_variables(values | self._kept(values))

    def _saves(self, size):
        """Whether this many bytes go into files."""
        if self.save_state != "auto":
            return self.save_state
        if size > SAVED_BY_DEFAULT and not self._solver_state.has_said_size:
            self._solver_state.has_said_size = True
            _log.warning(
                f"The state of the solver takes {size / 2**20:.0f} MiB and is left out of files: a fit from a file "
                "starts the solver afresh from the weights. Pass save_state=True to keep it, or False to leave it out "
                "without this line."
            )
        return size <= SAVED_BY_DEFAULT

    def _add_solver_variables(self, variables):
        """Makes the variables of a solver that keeps its state in them."""
        stage = self.stages[0]
        if stage.is_in_graph:
            specs = stage.remembered(sum(int(np.prod(variable.shape)) for variable in variables))
            dtype = vector_dtype(variables, self.precision)
            self._solver_state.variables = GraphSolverVariables.make(self.add_variable, specs, dtype)

    def _load_state(self):
        """Assigns the values of a .h5 file, which are there before the variables are."""
        loaded = self._solver_state.loaded_values
        if loaded is None:
            return
        if not self.built:
            for variable, value in zip(self._variables, loaded, strict=False):
                variable.assign(value)
            return
        variables = self._solver_state.variables
        index = None if variables is None else self._index_of(variables.seeds)
        if index is not None and index < len(loaded):
            self._make_room_for_seeds(len(loaded[index]))
        self._solver_state.loaded_values = None
        values = {str(i): value for i, value in enumerate(loaded)}
        keras.optimizers.Optimizer.set_weights(self, list((values | self._kept(values)).values()))

    def _kept(self, values):
        """The values of variables that stay as they are: a file has none of them, or steps of an earlier shape.

        Args:
            values: The values of the file, by the place of the variable as a string.
        """
        variables = self._solver_state.variables
        steps = None if variables is None else self._index_of(variables.steps)
        return {
            str(i): np.asarray(variable)
            for i, variable in enumerate(self._variables)
            if str(i) not in values or (i == steps and values[str(i)].shape != variable.shape)
        }

    def _make_room_for_seeds(self, count):
        """Puts a larger variable in the place of the one there is: an optimizer is built before it knows the seeds."""
        variables = self._solver_state.variables
        index = self._index_of(variables.seeds)
        if index is not None and variables.seeds.shape[0] < count:
            seeds = self.add_variable((count, 2), dtype="int64", name="seeds")
            self._variables[index] = self._variables.pop()
            self._solver_state.variables = variables._replace(seeds=seeds)

    def _index_of(self, variable):
        return next((i for i, each in enumerate(self._variables) if each is variable), None)


class _Untracked:
    """Holds what neither Keras nor TensorFlow shall track: they would wrap and save it."""

    variables = None
    drawn_data = DrawnData()
    loaded_values = None
    loaded_arrays = None
    has_said_size = False

    def __init__(self):
        self.run = _nobody  # the one that is suspended, as a weak reference


def _drawn(store, names):
    """`drawn_data` from the names of its arrays, which hold all numbers."""
    numbers = [(*map(int, name.removeprefix(_DRAWN).split("_")), 0)[:3] for name in names]
    arrays = {place: np.array(store[name]) for name, (_, place, _) in zip(names, numbers, strict=True)}
    count, _, given = numbers[0] if numbers else (0, 0, 0)
    return DrawnData(count, tuple(arrays.get(place) for place in range(max(arrays, default=-1) + 1)), given)


def _nobody():
    return None
