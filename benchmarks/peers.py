"""L-BFGS on four problems beside optax, jaxopt, torch, TFP and scipy by hand: table and picture.

    python -m benchmarks.engines --only solve [--problem PART] [--dtype float32] [--by NAME]    # measures
    python -m benchmarks.peers [--dtype float32]                                                # prints and draws

Every run of `engines` puts its rows into `docs/measured/engines.json`. Seconds of two runs say little beside each
other, so what is drawn is a row's multiple of optax in the same run.
"""

import argparse
from pathlib import Path

import pandas as pd

from benchmarks import measured

TABLE = "engines", "solve"
PICTURE = Path("docs/peers.png")
KEY = ["problem", "dtype", "by"]
DRAWN = {
    "fit, engine graph, XLA": "LBFGS(engine='graph'), XLA",
    "fit, engine graph": "LBFGS(engine='graph')",
    "fit, engine scipy, XLA": "LBFGS(), XLA",
    "fit, engine scipy": "LBFGS()",
    "optax, jitted": "optax",
    "jaxopt, jitted": "jaxopt",
    "torch, strong Wolfe": "torch",
    "scipy by hand": "scipy by hand",
    "tfp by hand": "tfp by hand",
}
OURS = 4  # of them, the first


def record(rows: list[dict]) -> None:
    """Puts rows of `engines` in the place of those of the same problem, dtype and contender."""
    table = pd.concat([measured.recorded(*TABLE), pd.DataFrame(rows)]).drop_duplicates(KEY, keep="last")
    measured.record(*TABLE, table.sort_values(["dtype", "problem"], kind="stable"))


def draw(multiples: pd.DataFrame) -> None:
    """A panel for each problem: multiples of optax's seconds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, multiples.shape[1], figsize=(13, 3.6), sharey=True, layout="constrained")
    colors = ["C0"] * OURS + ["0.6"] * (len(multiples) - OURS)
    for each, (problem, column) in zip(axes, multiples.items(), strict=True):
        bars = each.barh(multiples.index, column, color=colors)
        each.bar_label(bars, [f"{value:.2g}" for value in column], padding=2, fontsize=8)
        each.axvline(1, color="k", linewidth=0.8)
        each.set_title(problem.partition(",")[0], fontsize=10)
        each.set(xscale="log", xlabel="seconds / optax")
        each.set_xlim(right=4 * column.max())
    axes[0].invert_yaxis()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="float32")
    rows = measured.recorded(*TABLE)
    rows = rows[(rows["dtype"] == parser.parse_args().dtype) & rows["by"].isin(DRAWN)]
    multiples = rows.pivot(index="by", columns="problem", values="/ optax").reindex(DRAWN).rename(DRAWN)
    print(multiples.to_markdown(floatfmt=".2f"))
    draw(multiples)


if __name__ == "__main__":
    main()
