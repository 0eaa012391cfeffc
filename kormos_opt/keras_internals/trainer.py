"""Where `keras.Model` and its relatives have the methods that `integration/` replaces, and what Keras's `fit` uses."""

import contextlib

import keras
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import trainer as tensorflow_trainer
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.saving import saving_lib
from keras.src.saving.keras_saveable import KerasSaveable
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.trainer import Trainer
from keras.src.utils import io_utils
from keras.src.wrappers.sklearn_wrapper import SKLBase

from kormos_opt.keras_internals.replaced import replaced

METHODS_OF_FIT = TensorFlowTrainer
COMPILE = Trainer  # where `load_model` looks for it
SKLEARN_ESTIMATOR = SKLBase
PICKLE = KerasSaveable.__reduce__
print_message = io_utils.print_msg


def split_validation(arguments: dict) -> None:
    """Does what `validation_split` asks for, in the arguments of a `fit`."""
    if arguments["validation_split"] and arguments["validation_data"] is None:
        data = (arguments["x"], arguments["y"], arguments["sample_weight"])
        split = array_slicing.train_validation_split(data, validation_split=arguments["validation_split"])
        (arguments["x"], arguments["y"], arguments["sample_weight"]), arguments["validation_data"] = split
    arguments["validation_split"] = 0.0


def remember_what_files_leave_out() -> None:
    """Works around a leak in Keras: without this, every save makes an optimizer whose variable names TensorFlow never
    frees, 70 KB each."""
    skipset = saving_lib.get_attr_skipset("Optimizer")
    global_state.set_global_attribute("saving_attr_skiplist_Optimizer", skipset)


def compilation_of(model: keras.Model) -> object:
    """Another object after every `compile`."""
    return model._compile_config


def is_built(model: keras.Model) -> bool:
    """Whether the layers of the model, its metrics and its loss have their variables."""
    compiled = [each for each in (model._compile_metrics, model._compile_loss) if each is not None]
    return all(layer.built for layer in model._flatten_layers()) and all(each.built for each in compiled)


@contextlib.contextmanager
def mean_over_replicas():
    """Inside, the logs of replicas become their means. Keras takes the mean along the first axis, which a scalar of
    several workers does not have."""

    def mean(stock, values, strategy, reduction):
        return keras.tree.map_structure(lambda value: strategy.reduce("MEAN", value, axis=None), values)

    with replaced(tensorflow_trainer, "reduce_per_replica", mean):
        yield
