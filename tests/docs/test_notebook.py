"""The notebook runs from top to bottom, Ctrl-C and going on included."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "tour.ipynb"


@pytest.mark.slow  # shown by test_interruptions.py, test_plotting.py, test_fit_result.py too
def test_it_runs_from_top_to_bottom():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    assert "Interrupted." in text
    html = "".join(output["data"].get("text/html", "") for output in shown if "data" in output)
    assert "Not converged after 10 iterations" in html
    assert "Converged: " in html
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert NOTEBOOK.read_text().count('"outputs": []') == len([c for c in notebook.cells if c.cell_type == "code"])
