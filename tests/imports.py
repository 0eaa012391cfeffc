"""Who imports whom in the package, read from its files; nothing of it is run.

    python -m tests.imports [FOLDER]

prints the floors: a module stands one floor above the highest one that it imports.
"""

import ast
import functools
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "kormos_opt"


class Imports:
    """The imports of a package, by dotted names. What is there for type checkers only does not count.

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
        found, waiting = set(), [ast.parse(path.read_text())]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                waiting += node.orelse
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in self.files else node.module for name in names}
            else:
                waiting += ast.iter_child_nodes(node)
        return found - {self._dotted(path), *_packages(self._dotted(path))}

    def of_ours(self, module: str) -> set[str]:
        """The modules of the package that `module` imports itself."""
        return self._all[module] & self.files.keys()

    def of_others(self, module: str) -> set[str]:
        """The packages of others that `module` imports itself, but the standard library."""
        tops = {name.split(".")[0] for name in self._all[module] - self.files.keys()}
        return tops - set(sys.stdlib_module_names) - {self._folder.name}

    def closure(self, module: str) -> set[str]:
        """All modules that an import of `module` brings in, itself included, and the packages around them."""
        found, waiting = set(), [module]
        while waiting:
            found.add(waiting[-1])
            direct = self.of_ours(waiting.pop())
            packages = {each for name in direct for each in _packages(name)} - {*_packages(module), self._folder.name}
            waiting += (direct | packages) - found
        return found

    @functools.cache  # noqa: B019  one object for a program
    def floor(self, module: str) -> int:
        """1 for a module that imports none of the others."""
        return 1 + max((self.floor(each) for each in self.of_ours(module)), default=0)


def _packages(module):
    """The packages around a module: Python imports them first."""
    parts = module.split(".")[:-1]
    return {".".join(parts[: i + 1]) for i in range(len(parts))}


def main():
    imports = Imports(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
    floors = {}
    for module in imports.files:
        floors.setdefault(imports.floor(module), []).append(module.partition(".")[2] or "(the package)")
    for floor in sorted(floors, reverse=True):
        print(f"{floor:3} {', '.join(floors[floor])}")
    print(f"{max(floors)} floors, {len(imports.files)} files")


if __name__ == "__main__":
    main()
