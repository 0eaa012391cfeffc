"""The examples run, and reach what their documentation says. Without data of their own they are given small data."""

import runpy
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from examples import (
    allen_cahn,
    burgers,
    curve_fit,
    data,
    inverse_burgers,
    mnist,
    movielens,
    physics,
    poisson,
    poisson_regression,
    transfer,
)


def test_demo(capsys, monkeypatch, tmp_path):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", ["demo", str(picture)])
    runpy.run_module("examples.demo", run_name="__main__")
    out = capsys.readouterr().out
    assert "val_accuracy" in out
    assert "Converged" in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def ratings(tmp_path):
    """A folder with ratings in the format of MovieLens, of rank 1."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(1, 40, 3000), rng.integers(1, 60, 3000)
    rating = np.round(2 * (1 + rng.random(40)[user]) * (1 + 0.2 * rng.random(60)[item])) / 2 + 0.5
    (tmp_path / "ml-latest-small").mkdir()
    table = pd.DataFrame({"userId": user, "movieId": item, "rating": rating, "timestamp": 0})
    table.to_csv(tmp_path / "ml-latest-small" / "ratings.csv", index=False)
    return tmp_path


def test_movielens(ratings, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", ["movielens", "--data", str(ratings), "--picture", str(picture), "--epochs", "6"])
    movielens.main()
    rows = capsys.readouterr().out.splitlines()
    assert len([row for row in rows if row[:1].isdigit()]) == 6
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def images(tmp_path):
    """A folder with 400 images in the format of MNIST, whose brightness is their label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    images = (rng.integers(0, 60, (400, 28, 28)) + 15 * labels[:, None, None]).astype("uint8")
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels)
    return tmp_path


@pytest.mark.slow  # shown by test_multi_worker.py too
def test_several_workers_print_what_one_does(images):
    command = [sys.executable, "-m", "examples.multi_worker", "--data", str(images), "--rows", "101", "--epochs", "4"]
    tables = []
    for workers in ([], ["--workers", "2"]):
        run = subprocess.run([*command, *workers], capture_output=True, text=True, check=True)
        tables.append([line.split() for line in run.stdout.splitlines() if line[:1].isdigit()][:4])
    losses = np.array(tables, "float64")[:, :, -1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0, -1] < losses[0, 0]


@pytest.mark.slow  # shown by test_models.py, its network, and test_chain.py too
def test_mnist(images, tmp_path, monkeypatch, capsys):
    """One fit prints what two print."""
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    flags = ["mnist", "--data", str(tmp_path), "--picture", str(picture), "--batch-size", "100"]
    tables = []
    for more in ([], ["--two-fits"]):
        monkeypatch.setattr(sys, "argv", [*flags, *more])
        mnist.main()
        header, _, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        tables.append([float(row[1 + header.index("loss")]) for row in rows if row[0].isdigit()])
        assert "Peak memory" in " ".join(rows[-2])
        assert picture.read_bytes().startswith(b"\x89PNG")
    one, two = tables
    assert len(one) == 4
    assert all(np.diff(one) < 0)
    np.testing.assert_allclose(one, two, rtol=1e-4)


@pytest.mark.slow  # shown by test_advice.py, what it advises too
def test_transfer(tmp_path, monkeypatch, capsys):
    """Both ways lead to one head, and the features to it faster."""
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    flags = ["--iterations", "30", "--finetune", "1", "--epochs", "2", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", ["transfer", *flags])
    transfer.main()
    out = capsys.readouterr().out
    on_images, on_features = (float(part.split()[0]) for part in out.split(": loss ")[1:3])
    np.testing.assert_allclose(on_images, on_features, rtol=0.02)
    accuracies = [float(line.split(": ")[1].split()[0]) for line in out.splitlines() if "Accuracy" in line]
    assert min(accuracies) > 0.9
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_ratings_are_counted_and_scaled(ratings):
    table = data.movielens(str(ratings))
    assert (table["rating"].min(), table["rating"].max()) == (0, 1)
    assert sorted(table["user"].unique()) == list(range(table["user"].nunique()))


def test_missing_data_is_generated_and_said(monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("keras.utils.get_file", refuse)
    monkeypatch.setattr("keras.datasets.mnist.load_data", refuse)
    assert len(data.movielens()) == 100_836
    x, y = data.mnist()
    assert x.shape == (60000, 784)
    assert y.shape == (60000, 10)
    assert capsys.readouterr().out.count("generated") == 2


def run_physics(module, monkeypatch, capsys, tmp_path, *flags, xla=False):
    """What an example of a physics-informed network prints, and its histories.

    A hundred iterations are chaotic: another processor takes another path. What holds on every path is asserted here:
    no iterate has a higher loss than the one before, and the errors are those of what is drawn. Runs as short as
    these are over before XLA has compiled them.
    """
    stock, stock_draw, drawn = keras.Model.compile, physics.draw, []
    if not xla:
        monkeypatch.setattr(
            keras.Model, "compile", lambda *args, **kwargs: stock(*args, **kwargs | {"jit_compile": False})
        )

    def draw(path, histories, axes, found, solution, **names):
        drawn.append((histories, found, solution))
        stock_draw(path, histories, axes, found, solution, **names)

    monkeypatch.setattr(physics, "draw", draw)
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", [module.__name__, *flags, "--picture", str(picture)])
    module.main()
    out = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    ((histories, found, solution),) = drawn
    lines = {line.split()[0].rstrip(":"): line.split() for line in out.splitlines() if ": loss " in line}
    assert list(lines) == list(histories)
    errors = {name: float(line[line.index("error") + 1].rstrip(",")) for name, line in lines.items()}
    for name, history in histories.items():
        np.testing.assert_allclose(errors[name], history["error"][-1], rtol=1e-3)
    drawn_error = np.linalg.norm(found - solution) / np.linalg.norm(solution)
    name = "error_of_u" if "error_of_u" in next(iter(histories.values())) else "error"
    ends = [history[name][-1] for history in histories.values()]
    assert min(abs(end - drawn_error) for end in ends) <= 1e-6 * drawn_error
    return out, histories


def assert_falls(history):
    """No iterate has a higher loss than the one before."""
    assert len(history["loss"]) > 1 and all(np.diff(history["loss"]) <= 0)


@pytest.mark.parametrize(
    ("solvers", "iterations"),
    [("ss-broyden,l-bfgs", 100), ("ss-bfgs,bfgs", 100), ("l-bfgs-graph", 100), ("newton-cg,trust-krylov", 15)],
)
def test_burgers(solvers, iterations, float64, monkeypatch, capsys, tmp_path):
    flags = ["--solvers", solvers, "--adam", "20", "--iterations", f"{iterations}", "--rows", "400", "--units", "12"]
    out, histories = run_physics(burgers, monkeypatch, capsys, tmp_path, *flags)
    assert "Adam: error " in out
    assert list(histories) == solvers.split(",")
    for history in histories.values():
        assert_falls(history)


@pytest.mark.slow  # shown by test_examples.py, test_burgers too
def test_poisson(float64, monkeypatch, capsys, tmp_path):
    flags = ["--adam", "10", "--iterations", "200", "--rows", "300"]
    _, histories = run_physics(poisson, monkeypatch, capsys, tmp_path, *flags, xla=True)
    assert_falls(histories["ss-broyden"])


@pytest.mark.slow  # shown by test_examples.py, test_burgers, and test_resampling.py too
def test_allen_cahn(float64, monkeypatch, capsys, tmp_path, caplog):
    flags = ["--adam", "0", "--iterations", "150", "--rows", "300", "--every", "50", "--candidates", "1000"]
    _, histories = run_physics(allen_cahn, monkeypatch, capsys, tmp_path, *flags)
    assert list(histories) == ["ss-broyden"]
    assert "new training data); the loss" in caplog.text or "keeps its state" in caplog.text


@pytest.mark.slow  # shown by test_examples.py, test_burgers, and test_inference.py too
def test_inverse_burgers(float64, monkeypatch, capsys, tmp_path):
    flags = ["--adam", "0", "--iterations", "150", "--rows", "200", "--measurements", "100", "--noise", "1e-4"]
    out, histories = run_physics(inverse_burgers, monkeypatch, capsys, tmp_path, *flags)
    assert_falls(histories["ss-broyden"])
    assert f"ss-broyden: viscosity {histories['ss-broyden']['viscosity'][-1]:.9f}" in out
    best = next(line for line in out.splitlines() if line.startswith("The best one: viscosity "))
    assert float(best.split()[-1]) > 0


def test_curve_fit_finds_what_the_book_prints(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", ["curve_fit", "--picture", str(picture)])
    curve_fit.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, estimate, error in (("Vm", 212.7, 6.947), ("K", 0.06412, 0.008281)):
        row = next(row for row in rows if row and row[0].endswith(f"/{name}"))
        np.testing.assert_allclose([float(value) for value in row[1:3]], [estimate, error], rtol=2e-4)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_poisson_regression_prints_the_table_of_statsmodels_too(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", ["poisson_regression", "--rows", "300", "--picture", str(picture)])
    poisson_regression.main()
    lines = capsys.readouterr().out.splitlines()
    town = [float(line.split()[1]) for line in lines if line.strip().startswith("town")]
    ours = [float(line.replace("[2, 0]", "").split()[1]) for line in lines if "kernel[2, 0]" in line]
    np.testing.assert_allclose(ours, [town[0]] * 2, atol=6e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_exact_solution_solves_the_equation():
    """Difference quotients of the quadrature, at points away from the shock."""
    x, t, h = np.linspace(-0.9, 0.9, 7), np.full(7, 0.5), 1e-4
    u = burgers.exact(x, t)
    u_t = (burgers.exact(x, t + h) - burgers.exact(x, t - h)) / (2 * h)
    u_x = (burgers.exact(x + h, t) - burgers.exact(x - h, t)) / (2 * h)
    u_xx = (burgers.exact(x + h, t) - 2 * u + burgers.exact(x - h, t)) / h**2
    np.testing.assert_allclose(u_t + u * u_x, burgers.VISCOSITY * u_xx, atol=1e-6)
    np.testing.assert_allclose(burgers.exact(x, np.full(7, 1e-9)), -np.sin(np.pi * x), atol=1e-6)


def test_the_quadrature_has_enough_nodes():
    """Against the convolution with the trapezoidal rule, which converges exponentially."""
    x, t = np.linspace(-0.99, 0.99, 23), 0.7
    eta = np.linspace(-16, 16, 20_001) * np.sqrt(4 * burgers.VISCOSITY * t)
    kernel = np.exp(
        -(eta**2) / (4 * burgers.VISCOSITY * t)
        - (np.cos(np.pi * (x[:, None] - eta)) - 1) / (2 * np.pi * burgers.VISCOSITY)
        - 1 / (np.pi * burgers.VISCOSITY)
    )
    u = -np.sum(np.sin(np.pi * (x[:, None] - eta)) * kernel, axis=1) / np.sum(kernel, axis=1)
    np.testing.assert_allclose(burgers.exact(x, np.full(23, t)), u, atol=1e-10)


def test_the_heat_flow_solves_its_equation():
    """Difference quotients of w against the columns, and the initial value."""
    points, h = np.array([[0.3, 0.2], [0.95, 0.5], [0.99, 0.1]]), 1e-3
    rows = allen_cahn.heat(points)
    shifted = {shift: allen_cahn.heat(points + np.array(shift))[:, 2] for shift in [(h, 0), (-h, 0), (0, h), (0, -h)]}
    np.testing.assert_allclose((shifted[h, 0] - shifted[-h, 0]) / (2 * h), rows[:, 3], rtol=2e-3)
    np.testing.assert_allclose((shifted[0, h] - shifted[0, -h]) / (2 * h), rows[:, 4], rtol=2e-3, atol=1e-5)
    second = (shifted[h, 0] - 2 * rows[:, 2] + shifted[-h, 0]) / h**2
    np.testing.assert_allclose(allen_cahn.DIFFUSION * second, rows[:, 4], rtol=2e-2, atol=1e-5)
    start = np.stack([np.linspace(-0.9, 0.9, 9), np.full(9, 1e-12)], axis=1)
    np.testing.assert_allclose(allen_cahn.heat(start)[:, 2], allen_cahn.initial(start[:, 0]), atol=1e-5)


def test_the_spectral_method_has_converged():
    """Half the steps and half the modes change nothing that is seen."""
    *_, coarse = allen_cahn.reference(64, 6, modes=1024, steps=1000)
    *_, fine = allen_cahn.reference(64, 6, modes=2048, steps=2000)
    np.testing.assert_allclose(coarse[1:], fine[1:], atol=1e-7)


def test_the_features_of_allen_cahn_have_these_derivatives(float64):
    """The residual by the chain rule against difference quotients of the solution that the network makes."""
    keras.utils.set_random_seed(0)
    model, points, h = allen_cahn.AllenCahn(), np.array([[0.3, 0.2], [0.7, 0.6]]), 1e-3

    def u(dx, dt):
        return model.at(allen_cahn.heat(points + np.array([dx, dt])))

    here = u(0, 0)
    u_t = (u(0, h) - u(0, -h)) / (2 * h)
    u_xx = (u(h, 0) - 2 * here + u(-h, 0)) / h**2
    expected = u_t - allen_cahn.DIFFUSION * u_xx - 5 * (here - here**3)
    found = model.residual(tf.constant(allen_cahn.heat(points))).numpy()[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
