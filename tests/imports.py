"""Who imports whom in the package, read from its files; nothing of it is run. What is imported for types counts too.

    python -m tests.imports [FOLDER]

prints the floors, the circles between files and the imports that go upwards, and fails where there are any.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "kormos_opt"

# From the top to the bottom. A folder imports from itself and from the floors below. What stands beside it is a wall.
FLOORS = (
    ("the package",),  # and the modules beside the folders, which users import
    ("integration",),
    ("optimizers",),
    ("training", "inference"),
    ("training.runs",),
    ("stages",),
    ("objective",),
    ("graph_solvers",),
    ("data", "solvers"),
    ("keras_internals",),
)


class Imports:
    """The imports of a package, by dotted names.

    Args:
        folder: That of the package.
    """

    def __init__(self, folder: Path = PACKAGE):
        self._folder = folder
        self.files = {self._dotted(path): path for path in sorted(folder.rglob("*.py"))}
        self._all = {module: self._read(path) for module, path in self.files.items()}

    def _dotted(self, path):
        parts = path.relative_to(self._folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _read(self, path):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in self.files else node.module for name in names}
        return found - {self._dotted(path)}

    def of_ours(self, module: str) -> set[str]:
        """The modules of the package that `module` imports itself."""
        return self._all[module] & self.files.keys()

    def of_others(self, module: str) -> set[str]:
        """The packages of others that `module` imports itself, but the standard library."""
        tops = {name.split(".")[0] for name in self._all[module] - self.files.keys()}
        return tops - set(sys.stdlib_module_names) - {self._folder.name}

    def closure(self, module: str) -> set[str]:
        """All modules that an import of `module` brings in, itself included."""
        found, waiting = set(), [module]
        while waiting:
            found.add(waiting[-1])
            waiting += self.of_ours(waiting.pop()) - found
        return found

    def folder(self, module: str) -> str:
        """The folder of a module; "the package" for the modules beside the folders."""
        names = {name for floor in FLOORS for name in floor}
        parts = module.split(".")[1:]
        within = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
        return next((name for name in within if name in names), "the package")

    def floor(self, module: str) -> int:
        """The number of its floor, 0 for the highest."""
        return next(i for i, floor in enumerate(FLOORS) if self.folder(module) in floor)

    def upwards(self) -> Iterator[tuple[str, str]]:
        """Pairs of a module and one that it brings in, directly or not, from above or from beside."""
        for module in self.files:
            for other in sorted(self.closure(module)):
                is_same = self.folder(other) == self.folder(module)
                if not is_same and self.floor(other) <= self.floor(module):
                    yield module, other

    def circles(self) -> Iterator[list[str]]:
        """Modules that bring in each other."""
        closures = {module: self.closure(module) for module in self.files}
        seen = set()
        for module in self.files:
            circle = [other for other in sorted(closures[module]) if module in closures[other]]
            if len(circle) > 1 and module not in seen:
                yield circle
            seen.update(circle)


def main() -> int:
    """Prints. Returns how many arrows are wrong."""
    imports = Imports(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    for number, floor in enumerate(FLOORS):
        for name in floor:
            files = [module for module in imports.files if imports.folder(module) == name]
            lines = sum(len(imports.files[module].read_text().splitlines()) for module in files)
            print(f"{len(FLOORS) - number:3} {name:16} {len(files):3} files {lines:6} lines")
    upwards, circles = list(imports.upwards()), list(imports.circles())
    for module, other in upwards:
        print(f"upwards: {module} brings in {other}")
    for circle in circles:
        print(f"circle: {', '.join(circle)}")
    print(f"{len(FLOORS)} floors, {len(imports.files)} files, {len(upwards)} upward arrows, {len(circles)} circles")
    return len(upwards) + len(circles)


if __name__ == "__main__":
    sys.exit(bool(main()))
