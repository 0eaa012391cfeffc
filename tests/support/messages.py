"""Every message that the package can say, read from its source."""

import ast
import re
from pathlib import Path

from kormos_opt import LBFGS
from kormos_opt.optimizers import unknown_arguments
from kormos_opt.optimizers.settings import all_settings
from kormos_opt.solvers.termination import TerminationReason
from kormos_opt.training.fit import AFTER_AN_ERROR

PACKAGE = Path(__file__).parents[2] / "kormos_opt"
GAP = "..."
_SHORT = 30
_NOT_HERE = {
    "docstrings.py",
    "self_scaled.py",
    "settings.py",
    "unknown_arguments.py",
}  # parts of docstrings, and what is filled in


def all_messages() -> dict[str, str]:
    """Where each one stands, by its text with `...` for what is filled in."""
    said = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name in _NOT_HERE:
            continue
        for text, line in _sentences(ast.parse(path.read_text())):
            said.setdefault(text, f"{path.relative_to(PACKAGE.parent)}:{line}")
    said |= {
        _with_gaps(reason.value[0]): f"TerminationReason.{reason.name}"
        for reason in TerminationReason
        if reason is not TerminationReason.INTERRUPTED
    }
    how = {"how": "Not converged", "nit": GAP, "where": GAP, "what_next": GAP}
    said |= {
        TerminationReason.INTERRUPTED.message(**how | words): "TerminationReason.INTERRUPTED"
        for words in ({}, {"how": AFTER_AN_ERROR[1]})
    }
    said |= {
        f"Expected {setting.expected}. Received: {name}={GAP}.": f"Settings.{name}"
        for name, setting in all_settings().items()
    }
    arguments = (*unknown_arguments.STOCHASTIC, *unknown_arguments.ELSEWHERE, "ftol", "memori")
    return said | {unknown_arguments.message(LBFGS, argument, 0): f"LBFGS({argument}=0)" for argument in arguments}


def _sentences(tree):
    """Strings that end like a sentence, and what is raised; no docstrings."""
    left_out = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    left_out |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    raised = {id(node.exc.args[0]) for node in ast.walk(tree) if isinstance(node, ast.Raise) and _has_text(node.exc)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in left_out:
            whole = _text(node)
            text = _with_gaps(whole)
            is_sentence = text.endswith(".") and len(text.replace(GAP, "")) > _SHORT and "\n" not in whole
            if is_sentence or (id(node) in raised and text):
                yield text, node.lineno


def _has_text(error):
    return isinstance(error, ast.Call) and bool(error.args)


def _text(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)


def _with_gaps(text):
    return re.sub(r"(\{[^{}]*\}|%\.?\d*[sdf](?!\w))", GAP, text.replace("{{", "").replace("}}", "")).strip()
