"""Tables that benchmarks have measured, in `docs/measured`, and the picture of least squares and of Burgers' equation.

    python -m benchmarks.least_squares    # measures; its tables go to docs/measured/least_squares.json
    python -m benchmarks.pinn             # likewise, to docs/measured/pinn.json
    python -m benchmarks.measured         # draws

What is run with fewer solvers or problems puts its table there too: look at the difference before you commit.
"""

import json
from pathlib import Path

import pandas as pd

FOLDER = Path("docs/measured")
PICTURE = Path("docs/least_squares.png")
PANELS = {
    "a curve, 100,000 rows": ("least_squares", "curve", "error"),
    "a network, 201 weights": ("least_squares", "network", "loss"),
    "Burgers, one minute each": ("pinn", "solvers", "relative error"),
}


def record(benchmark: str, name: str, table: pd.DataFrame) -> None:
    """Puts a table in the place of the one of that name."""
    tables = _tables(benchmark) | {name: json.loads(table.to_json(orient="records", double_precision=15))}
    _file(benchmark).write_text(json.dumps(tables, indent=1))


def recorded(benchmark: str, name: str) -> pd.DataFrame:
    """The table of that name, empty if there is none."""
    return pd.DataFrame(_tables(benchmark).get(name, []))


def _tables(benchmark):
    return json.loads(_file(benchmark).read_text()) if _file(benchmark).exists() else {}


def _file(benchmark):
    return FOLDER / f"{benchmark}.json"


def main() -> None:
    """Draws a panel for each table: what is left over the seconds it took, bars where all took as long."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(14, 4), layout="constrained")
    for each, (title, (benchmark, name, column)) in zip(axes, PANELS.items(), strict=True):
        table = recorded(benchmark, name)
        if "digits" in table:
            table["error"] = 10 ** -table["digits"]
        label = table.columns[0]
        each.set_title(title)
        if column == "relative error":
            each.barh(table[label], table[column])
            each.set(xscale="log", xlabel=column)
            each.invert_yaxis()
            continue
        for _, row in table.iterrows():
            each.loglog(row["seconds"], row[column], "o", label=row[label])
        each.set(xlabel="seconds", ylabel=column)
        each.legend(fontsize=7)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
