"""Why a solver starts afresh instead of going on from where it stands."""

from enum import Enum


class RestartReason(Enum):
    """Why a solver starts afresh. The value is what the log says, `None` where there is nothing to say."""

    FIRST = "first", None
    ENDED = "ended", None
    OTHER_PLAN = "plan", None
    FROM_A_FILE = (
        "file",
        "This model was trained before: the solver starts afresh from its weights. What it knew of the iterations "
        "before is gone: compile() never carries it, and files carry it of L-BFGS, SSBroyden and "
        "SSBFGS alone, with save_state=True or if it is small.",
    )
    OTHER_MEMORY = (
        "memory",
        "The state of the solver that came with the model is of other weights or another objective: the solver starts "
        "afresh from the weights.",
    )
    AFTER_AN_ERROR = "error", "The last fit ended with an error: the solver starts afresh from the weights."
    MADE_ANEW = "anew", "The train function was made anew: the solver starts afresh from the weights."
    OTHER_WEIGHTS = "weights", "The weights were changed since the last iteration: the solver starts afresh from them."
    OTHER_OBJECTIVE = "data", "The data or the model were changed since the last fit: the solver starts afresh."

    @property
    def message(self) -> str | None:
        """What the log says."""
        return self.value[1]
