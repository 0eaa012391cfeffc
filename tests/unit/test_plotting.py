"""Pictures of histories: which line shows which column."""

import sys

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest

import kormos_opt

pytestmark = pytest.mark.quick

ONE = {"loss": [4.0, 2.0, 1.0], "val_loss": [5.0, 3.0, 2.0], "grad": [np.nan, 1.0, 0.5], "fg_evals": [1, 3, 4]}


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield
    plt.close("all")


def lines(axes):
    return {line.get_label(): line.get_xydata().T.tolist() for line in axes.lines}


def test_one_run():
    loss, gradient = kormos_opt.plot_history(ONE)
    assert lines(loss) == {"training": [[1, 3, 4], [4, 2, 1]], "validation": [[1, 3, 4], [5, 3, 2]]}
    np.testing.assert_array_equal(gradient.lines[0].get_ydata(), ONE["grad"])
    assert (loss.get_yscale(), gradient.get_yscale()) == ("log", "log")
    assert gradient.get_xlabel() == "evaluations of the loss and its gradient"


def test_runs_by_name_over_epochs():
    history = keras.callbacks.History()
    history.history = {"loss": [3.0, -1.0]}
    (axes,) = kormos_opt.plot_history({"adam": history, "other": {"loss": [2.0]}}, x=None)
    assert lines(axes) == {"adam": [[1, 2], [3, -1]], "other": [[1], [2]]}
    assert (axes.get_yscale(), axes.get_xlabel()) == ("linear", "epochs")


def test_the_border_of_stages():
    loss, _ = kormos_opt.plot_history({**ONE, "stage": [0, 0, 1]})
    border = loss.lines[-1]
    assert border.get_linestyle() == ":"
    assert list(border.get_xdata()) == [3, 3]


def test_a_column_that_is_not_there():
    with pytest.raises(ValueError, match=r"Received: x='fg_evals', and a history adam with loss\. Write x=None"):
        kormos_opt.plot_history({"adam": {"loss": [1.0]}})


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'kormos_opt\[plot\]'"):
        kormos_opt.plot_history(ONE)
