"""What one chunk of rows contributes: to f, its gradient, Hessian products, and the denominators of means.

Each is a function of a point x that runs the model's own train step on the chunk.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from kormos_opt.data.rows import rows_of
from kormos_opt.keras_internals import model as keras_model
from kormos_opt.keras_internals import recorded
from kormos_opt.objective import gauss_newton, input_sizes, loss_domains, precision, train_step
from kormos_opt.objective.chunk_sums import ChunkFunction
from kormos_opt.objective.flat_parameters import FlatParameters
from kormos_opt.objective.loss_reductions import LossReductions
from kormos_opt.objective.residual_recorder import recording


class ChunkTerms:
    """The chunk_functions of an objective.

    Args:
        model: A compiled model.
        float64: Whether to compute in double precision, whatever the dtypes of the model.
        is_replicated: Whether the model has a strategy.
        curvature: `"exact"` or `"gauss-newton"`. Defaults to `"exact"`.

    Attributes:
        logs: The shapes and dtypes of the logs of the last chunk that was traced.
        counted_losses: How many losses of it are means over valid entries.
        biases: Of kernels that stand on the data, by the `id` of the kernel, once their inputs were measured.
        ranged_losses: Its losses that are not defined for all labels and outputs.
        may_depend_on_chunking: Whether Keras alone does not say how its losses add up over chunks.
    """

    def __init__(self, model: keras.Model, float64: bool, is_replicated: bool, curvature: str = "exact"):
        self._model = model
        self._asked_for_float64 = float64
        self._is_replicated = is_replicated
        self._hvp = self._gauss_newton if curvature == "gauss-newton" else self._differentiate_twice
        self.logs: dict = {}
        self.counted_losses = 0
        self.ranged_losses: list = []
        self.biases: dict = {}
        self.may_depend_on_chunking = False

    @property
    def chunk_functions(self) -> dict[str, ChunkFunction]:
        """What a pass can add up, by name."""
        return {
            "gradient": ChunkFunction(self._gradient, lambda x: ((), x.shape), lambda: self.logs),
            "value": ChunkFunction(self._value, lambda x: ((),), lambda: self.logs),
            "hvp": ChunkFunction(self._hvp_of_chunk, lambda x, p: (p.shape,)),
            "hvps": ChunkFunction(self._hvps, lambda x, p: (p.shape,)),
            "input_moments": ChunkFunction(self._input_moments, lambda *_: ((2 * self.parameters.size,),)),
            "null_loss": ChunkFunction(self._null_loss, lambda x: ((),)),
            "misfits": ChunkFunction(self._misfits, lambda x: ((len(self.ranged_losses), 2),)),
            "denominators": ChunkFunction(self.denominators, lambda x: ((self.counted_losses,),)),
        }

    @property
    def dtype(self) -> str:
        """The precision that f is computed in."""
        return "float64" if self._asked_for_float64 else precision.compute_dtype(self._model)

    @functools.cached_property
    def parameters(self) -> FlatParameters:
        """The weights of the model, which is built by now."""
        return FlatParameters(self._model.trainable_variables)

    def denominators(self, point, chunk, total_rows, loss_denominators):
        """The valid entries of every loss of one chunk that is a mean over valid entries."""
        del loss_denominators
        reductions, _ = _reductions(chunk, total_rows, None)
        self._run_train_step(chunk, reductions)
        self.counted_losses = len(reductions.parts)
        return (tf.stack(reductions.parts) if reductions.parts else tf.zeros((0,), tf.float64),), {}

    def _null_loss(self, point, chunk, total_rows, loss_denominators):
        """The loss of the best guess without any input."""
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)
        record = self._run_train_step(chunk, reductions, instead=loss_domains.null_values)
        return (rows * tf.cast(record.loss, tf.float64),), {}

    def _misfits(self, point, chunk, total_rows, loss_denominators):
        """Labels and outputs that the losses are not defined for, counted."""
        reductions, _ = _reductions(chunk, total_rows, loss_denominators)
        counts = []

        def count(loss, y_true, y_pred, values, sample_weight, mask):
            """0 for the loss, which may raise an error for labels that are no classes."""
            if loss_domains.has_domain(loss):
                counts.append(loss_domains.misfits(loss, y_true, y_pred, values, sample_weight, mask))
            return tf.zeros(tf.shape(values), values.dtype)

        self._run_train_step(chunk, reductions, instead=count)
        return (tf.reshape(tf.stack(counts), (-1, 2)),), {}

    def _input_moments(self, point, chunk, total_rows, loss_denominators):
        """The means of the inputs of kernels that stand on the data, and of their squares; less an origin."""
        _, origin = point
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)

        def run():
            self._run_train_step(chunk, reductions)

        tape = tf.GradientTape(persistent=True)
        moments, self.biases = input_sizes.moments_of_chunk(self.parameters, run, tape, origin)
        return (rows * moments,), {}

    def _gradient(self, point, chunk, total_rows, loss_denominators):
        (x,) = point
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)
        record, gradient = self._run_gradient(x, self.parameters.unravel(x), chunk, reductions)
        return (rows * tf.cast(record.loss, tf.float64), rows * gradient), record.logs

    def _value(self, point, chunk, total_rows, loss_denominators):
        """The gradient that the train step computes has no reader here, so the graph leaves it out."""
        (value, _), logs = self._gradient(point, chunk, total_rows, loss_denominators)
        return (value,), logs

    def _hvp_of_chunk(self, point, chunk, total_rows, loss_denominators):
        x, p = point
        product, rows = self._hvp(x, chunk, total_rows, loss_denominators)
        return (rows * product(p),), {}

    def _hvps(self, point, chunk, total_rows, loss_denominators):
        x, p = point
        product, rows = self._hvp(x, chunk, total_rows, loss_denominators)
        return (rows * tf.vectorized_map(product, p),), {}

    def _differentiate_twice(self, x, chunk, total_rows, loss_denominators):
        """The product of a chunk's Hessian with a vector, as a function of the vector: the gradient of the gradient."""
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)
        pieces = self.parameters.unravel(x)
        with recorded.twice_differentiable(), tf.GradientTape(persistent=True) as tape:
            tape.watch(pieces)
            _, gradient = self._run_gradient(x, pieces, chunk, reductions)
        return functools.partial(self.vector_gradient, tape, gradient, pieces), rows

    def _gauss_newton(self, x, chunk, total_rows, loss_denominators):
        """The product of a chunk's Gauss-Newton matrix with a vector, as a function of the vector."""
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)
        pieces = self.parameters.unravel(x)

        def run(outputs):
            with recording(outputs):
                return self._run_train_step(chunk, reductions, self._substitutes(pieces), detach=outputs.constant).loss

        with recorded.twice_differentiable():
            return gauss_newton.product(self, pieces, run), rows

    def loss(self, pieces, chunk, total_rows, loss_denominators, recorder):
        """The loss of a chunk and its part of all rows; `recorder` takes what is squared in it."""
        reductions, rows = _reductions(chunk, total_rows, loss_denominators)
        record = self._run_train_step(chunk, reductions, self._substitutes(pieces), recorder)
        self.counted_losses = len(reductions.parts)
        self.parameters.check_trains(record.variables)
        return record.loss, rows / total_rows

    def forward(self, tape, target, pieces):
        """The derivative of `target` along a vector, as a function of the vector: `vector_gradient` is linear."""
        zeros = tf.zeros_like(target)
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(zeros)
            transposed = self.vector_gradient(tape, target, pieces, zeros)
        return lambda p: outer.gradient(transposed, zeros, p, unconnected_gradients="zero")

    def vector_gradient(self, tape, target, pieces, vector=None):
        """The gradient of `target`, times `vector`, with respect to x, through `pieces` of x and the weights."""
        variables = self.parameters.variables
        sources = (pieces, [variable.value for variable in variables])
        try:
            of_x, of_weights = tape.gradient(target, sources, vector, unconnected_gradients="zero")
        except LookupError as error:
            raise ValueError(
                "Expected operations with a second derivative, which this method needs. Received: an operation "
                f"without one ({str(error).strip()}). Take a method that needs only gradients, such as L-BFGS-B."
            ) from error
        of_weights = [tf.cast(gradient, tf.float64) for gradient in of_weights]  # before slices are added up
        return self.parameters.ravel_values(of_x) + self.parameters.ravel_values(of_weights)

    def _run_gradient(self, x, pieces, chunk, reductions):
        """The record of the train step of a chunk, and the flat gradient of its loss."""
        if not self._reads_x():
            record = self._run_train_step(chunk, reductions)
            gradient = self.parameters.ravel_gradients(record.gradients)
        else:
            with tf.GradientTape() as tape:
                tape.watch(pieces)
                record = self._run_train_step(chunk, reductions, self._substitutes(pieces))
            gradient = self.vector_gradient(tape, record.loss, pieces)
        self.counted_losses = len(reductions.parts)
        self.parameters.check_trains(record.variables)
        return record, gradient

    def _substitutes(self, pieces):
        return list(zip(self.parameters.variables, pieces, strict=True)) if self._reads_x() else ()

    def _run_train_step(self, chunk, reductions, substitutes=(), recorder=None, detach=None, instead=None):
        float64 = self.dtype == "float64"
        compute = precision.float64_compute(self._model, substitutes) if float64 else contextlib.nullcontext()
        losses = recorded.undivided_losses() if self._is_replicated else contextlib.nullcontext()
        explained = precision.explained() if float64 else contextlib.nullcontext()
        ranged = []
        corrected = recorded.corrected_losses(
            self._model, functools.partial(_reduce, reductions, recorder, ranged, instead), detach
        )
        with explained, compute, losses, corrected:
            record = train_step.run(self._model, precision.in_float64(chunk) if float64 else chunk)
        self.logs = keras.tree.map_structure(_spec, record.logs)
        self.ranged_losses = ranged
        self.may_depend_on_chunking |= (
            reductions.may_mix_rows
            or keras_model.has_own_loss(self._model)
            or not keras_model.has_known_rows(self._model)
        )
        if float64:
            precision.check_loss(record.loss)
        return record

    def _reads_x(self):
        """Whether layers read x itself. A custom train step is spared: it may use its gradients of the variables."""
        coarse = any(variable.dtype != "float64" for variable in self.parameters.variables)
        return self._asked_for_float64 and coarse and keras_model.has_stock_train_step(self._model)


def _reductions(chunk, total_rows, loss_denominators):
    rows = tf.cast(rows_of(chunk), tf.float64)
    return LossReductions(rows, total_rows, loss_denominators), rows


def _reduce(reductions, recorder, ranged, instead, stock, loss, y_true, y_pred, values, sample_weight, mask):
    """The reduction of a loss, which belongs to the objective until the gradients have been handed over."""
    if train_step.current_record().gradients is not None:
        return stock(values, sample_weight, mask, loss.reduction)
    loss_domains.check_logits(loss, y_pred)
    if loss_domains.has_domain(loss):
        ranged.append(loss)
    if recorder is not None:
        recorder.record_loss(loss, y_true, y_pred, values)
    if instead is not None:
        values = instead(loss, y_true, y_pred, values, sample_weight, mask)
    return reductions.reduce(stock, loss, y_true, y_pred, values, sample_weight, mask)


def _spec(value):
    value = tf.convert_to_tensor(value)
    return tf.TensorSpec(value.shape, value.dtype)
