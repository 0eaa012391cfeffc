"""Which versions of Keras the patches fit."""

import inspect
import warnings

from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

TESTED = (3, 10), (3, 15)
"""The first and the last version of Keras that the tests have passed with."""

_SIGNATURES = {
    "fit": (
        "self, x, y, batch_size, epochs, verbose, callbacks, validation_split, validation_data, shuffle, class_weight, "
        "sample_weight, initial_epoch, steps_per_epoch, validation_steps, validation_batch_size, validation_freq"
    ),
    "make_train_function": "self, force",
    "make_test_function": "self, force",
    "_maybe_symbolic_build": "self, iterator, data_batch",
}


def check_version(version: str) -> None:
    """Raises `ImportError` for a version of Keras before `TESTED`, or one whose methods take other arguments.

    A later version whose methods take the arguments that we know is let through with a warning.

    Args:
        version: As in `keras.__version__`.
    """
    number = tuple(int(part) for part in version.split(".")[:2])
    is_late = number > TESTED[1] and ".dev" not in version
    is_tested = TESTED[0] <= number or ".dev" in version
    changed = [name for name, expected in _SIGNATURES.items() if _arguments_of(name) != expected]
    if is_tested and not changed:
        if is_late:
            warnings.warn(_UNTESTED.format(version, *TESTED[1]), stacklevel=2)
        return
    (major, first), (_, last) = TESTED
    reason = f", whose {', '.join(changed)} takes other arguments" if changed else ""
    raise ImportError(
        f"Expected Keras {major}.{first} to {major}.{last}, with which kormos_opt was tested. "
        f"Received: keras {version}{reason}. "
        f'Install one of those: pip install "keras>={major}.{first},<{major}.{last + 1}"'
    )


_UNTESTED = (
    "kormos_opt was not tested with keras {}, which is later than {}.{}. Its methods take the arguments that are "
    "known, so it goes on. Where something fails, install the earlier version."
)


def _arguments_of(name):
    return ", ".join(inspect.signature(getattr(TensorFlowTrainer, name)).parameters)
