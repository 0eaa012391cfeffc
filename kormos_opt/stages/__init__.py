"""What a fit is told to do, stage by stage: method, options, bounds, constraints. Knows no tensor and no run.

Every file of `solvers/` and `graph_solvers/` is imported here: a new one registers its method by being there.
"""

import importlib
import pkgutil

from kormos_opt import graph_solvers, solvers

for _folder in (solvers, graph_solvers):
    for _file in pkgutil.iter_modules(_folder.__path__, f"{_folder.__name__}."):
        importlib.import_module(_file.name)
