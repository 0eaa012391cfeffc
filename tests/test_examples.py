"""The examples run, and reach what their documentation says. Without data of their own they are given small data."""

import runpy
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from examples import burgers, data, mnist, movielens


def test_demo(capsys):
    runpy.run_module("examples.demo", run_name="__main__")
    out = capsys.readouterr().out
    assert "val_accuracy" in out
    assert "Converged" in out


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


def test_several_workers_print_what_one_does(images):
    command = [sys.executable, "-m", "examples.multi_worker", "--data", str(images), "--rows", "101", "--epochs", "4"]
    tables = []
    for workers in ([], ["--workers", "2"]):
        run = subprocess.run([*command, *workers], capture_output=True, text=True, check=True)
        tables.append([line.split() for line in run.stdout.splitlines() if line[:1].isdigit()][:4])
    losses = np.array(tables, "float64")[:, :, -1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0, -1] < losses[0, 0]


def test_mnist(images, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(
        sys, "argv", ["mnist", "--data", str(tmp_path), "--picture", str(picture), "--batch-size", "100"]
    )
    mnist.main()
    out = capsys.readouterr().out
    losses = [float(row.split()[-1]) for row in out.splitlines() if row[:1].isdigit()]
    assert len(losses) == 3
    assert all(np.diff(losses) < 0)
    assert "Peak memory" in out
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


@pytest.mark.parametrize(("engine", "epochs"), [("scipy", "100"), ("graph", "50")])
def test_burgers(engine, epochs, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "picture.png"
    monkeypatch.setenv("MPLBACKEND", "agg")
    arguments = ["--engine", engine, "--adam", "30", "--epochs", epochs, "--rows", "200", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", ["burgers", *arguments])
    try:
        burgers.main()
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    adam, lbfgs = (
        float(line.partition("loss ")[2].partition(",")[0])
        for line in capsys.readouterr().out.splitlines()
        if "relative L2 error" in line
    )
    assert lbfgs < 0.8 * adam
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
