"""What a fit says of itself afterwards, in a form to read: `model.optimizer.result`."""

import html
import io

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.optimize import OptimizeResult

_SHOWN = 3
_WIDTH = 100


class FitResult(OptimizeResult):
    """A `scipy.optimize.OptimizeResult` that prints its ending first, and of long vectors their size and first entries.

    Its fields are attributes, as in scipy: `message`, `success`, `status` and `ending` say why the solver ended; `x`,
    `fun` and `jac` are the weights, the loss and the gradient at the last accepted iterate; `nit`, `nfev`, `njev` and
    `nhev` count iterations, evaluations, gradients and Hessian-vector products; `method` is the solver, and
    `seconds_per_evaluation` the time inside of the solver for each evaluation, after the first call.

    Example:

    >>> import numpy as np
    >>> from kormos_opt.training.fit_result import FitResult
    >>> result = FitResult(message="Converged: ...", fun=0.5, x=np.zeros(100), jac=np.ones(100), nit=7, nfev=9)
    >>> print(result)
    Converged: ...
        loss            0.5
        gradient norm   10
        iterations      7
        evaluations     9
        x               100 numbers: 0, 0, 0, ...
        jac             100 numbers: 1, 1, 1, ...
    """

    def __repr__(self):
        out = io.StringIO()
        console = Console(file=out, width=_WIDTH, highlight=False)
        console.print(Text(str(self.get("message", ""))), soft_wrap=True)
        console.print(self._table())
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())

    __str__ = __repr__

    def _repr_html_(self):
        return f"<pre>{html.escape(str(self))}</pre>"

    def _table(self):
        table = Table(box=None, show_header=False, pad_edge=True)
        table.add_column("", no_wrap=True, min_width=15)
        table.add_column("")
        for name, value in self._rows().items():
            if value is not None:
                table.add_row(f"  {name}", Text(_shown(value)))
        return table

    def _rows(self):
        jac = self.get("jac")
        norm = None if jac is None or np.ndim(jac) != 1 else float(np.linalg.norm(jac))
        seconds = self.get("seconds_per_evaluation")
        named = {
            "method": self.get("method"),
            "loss": self.get("fun"),
            "gradient norm": norm,
            "iterations": self.get("nit"),
            "evaluations": self.get("nfev"),
            "Hessian products": self.get("nhev") or None,
            "per evaluation": None if seconds is None else f"{seconds:.3g} s",
        }
        said = {"message", "ending", "method", "fun", "nit", "nfev", "njev", "nhev", "seconds_per_evaluation"}
        return named | {name: value for name, value in self.items() if name not in said}


def _shown(value):
    """A scalar as it is, an array by its size and first entries."""
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype == object:
        return str(value)
    first = ", ".join(f"{entry:.6g}" for entry in array.ravel()[:_SHOWN])
    more = ", ..." if array.size > _SHOWN else ""
    return f"{' x '.join(map(str, array.shape))} numbers: {first}{more}"
