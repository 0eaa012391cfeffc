"""A curve from chemistry with its confidence band
===============================================

The speed of an enzyme, after Michaelis and Menten::

    speed = Vm c / (K + c)

    python -m examples.curve_fit [--level 0.95] [--picture PNG]

.. image:: /curve_fit.png

The data are those of Treloar, Effects of Puromycin on Galactosyltransferase in Golgi Membranes (1974), as Bates and
Watts print them, Nonlinear Regression Analysis and Its Applications (1988), table A1.3. They find Vm = 212.7 with a
standard error of 6.947, and K = 0.06412 with 0.008281.
"""

# sphinx_gallery_thumbnail_path = "curve_fit.png"

import argparse

import keras
import matplotlib.pyplot as plt
import numpy as np

import kormos_opt

CONCENTRATION = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)[:, None]
SPEED = np.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200], "float64")[:, None]


class MichaelisMenten(keras.Model):
    """The curve, with its two constants as weights."""

    def __init__(self):
        super().__init__()
        self.fastest = self.add_weight(shape=(), initializer=keras.initializers.Constant(100.0), name="Vm")
        self.half = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.1), name="K")

    def call(self, concentration):
        return self.fastest * concentration / (self.half + concentration)


def fit() -> keras.Model:
    """The curve through the data."""
    model = MichaelisMenten()
    model.compile(optimizer=kormos_opt.LevenbergMarquardt(precision="float64"), loss="mse")
    model.fit(CONCENTRATION, SPEED, batch_size=len(SPEED), epochs=50, verbose=0)
    print(model.optimizer.result.message)
    return model


def draw(path: str, model: keras.Model, table: kormos_opt.Summary, level: float) -> None:
    """The data, the curve, its band and that of new measurements; the residuals below."""
    figure, (curve, residuals) = plt.subplots(
        2, 1, sharex=True, figsize=(7, 6), height_ratios=(3, 1), layout="constrained"
    )
    line = np.linspace(0.005, 1.2, 200)[:, None]
    for kind, shade in (("observation", 0.15), ("mean", 0.35)):
        band = kormos_opt.predict_interval(model, line, table, alpha=1 - level, kind=kind)
        label = f"{level:.0%} band of the {kind}"
        curve.fill_between(line[:, 0], band.lower[:, 0], band.upper[:, 0], alpha=shade, color="C0", lw=0, label=label)
    curve.plot(line, band.mean, color="C0")
    curve.plot(CONCENTRATION, SPEED, "k.", label="measured")
    curve.set(ylabel="speed, counts / min²", title="Puromycin")
    curve.legend()
    here = kormos_opt.predict_interval(model, CONCENTRATION, table)
    residuals.axhline(0, color="C0")
    residuals.plot(CONCENTRATION, SPEED - here.mean, "k.")
    residuals.set(xlabel="concentration of the substrate, ppm", ylabel="residual")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"Picture: {path}")


def main() -> None:
    """Fits, prints the table and both kinds of intervals, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--picture", default="curve_fit.png")
    arguments = parser.parse_args()
    alpha = 1 - arguments.level
    model = fit()
    table = kormos_opt.summary(model, CONCENTRATION, SPEED, alpha=alpha)
    print(table)
    ends = kormos_opt.confint(model, CONCENTRATION, SPEED, alpha=alpha, method="profile")
    for name, (low, high) in zip(table.names, ends, strict=True):
        print(f"{name} between {low:.5g} and {high:.5g} by profile likelihood")
    draw(arguments.picture, model, table, arguments.level)


if __name__ == "__main__":
    main()
