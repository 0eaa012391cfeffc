"""One word for one thing: those of docs/glossary.md, in names, docstrings, messages and pages."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.messages import all_messages

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "kormos_opt").rglob("*.py"))
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "coming_from").glob("*.md")),
    ROOT / "README.md",
]

# Names of our own that were replaced, and the word that stands in their place.
NAMES = {
    "Answers": "Oracle",
    "BatchList": "BatchSequence",
    "Beginning": "start_run",
    "Ending": "TerminationReason",
    "FitAnswers": "ObjectiveOracle",
    "OutsideVariables": "CapturedVariables",
    "Part": "Reducer",
    "Quantity": "ChunkFunction",
    "Reason": "RestartReason",
    "RunMemory": "RunState",
    "SignOfLife": "ProgressHeartbeat",
    "Squares": "ResidualRecorder",
    "Standing": "ChainState",
    "beside": "perturbed",
    "ends_at_resolution": "stops_at_precision",
    "hear_loss": "record_loss",
    "heard_by": "recording",
    "heard_penalties": "recorded_penalties",
    "is_doubtful": "may_depend_on_chunking",
    "outside": "captured",
    "renew": "on_objective_change, rebuild",
    "solver_memory": "solver_state",
    "taken": "local_result",
    "takes_anew": "update_objective",
    "upcoming": "next_state",
    "why_afresh": "restart_reason",
    "without_fit": "flat_objective",
}
# Words that a reader has to guess.
PHRASES = (
    r"very (same )?iterates",
    r"taken? anew",
    r"takes anew",
    r"\bhears?\b",
    r"\bheard\b",
    r"as ever\b",
    r"all the same\b",
    r"goes further",
    r"do not tell\b",
    r"what speaks against",
)


def identifiers(tree):
    """Names of classes, functions, arguments, attributes and variables that a file defines or uses."""
    for node in ast.walk(tree):
        for field in ("name", "id", "attr", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value.strip("_")


def docstrings(tree):
    """Those of the module, and of its public classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and not getattr(node, "name", "").startswith("_"):
                yield text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_those_of_the_field(path):
    used = set(identifiers(ast.parse(path.read_text())))
    assert {name: NAMES[name] for name in used & NAMES.keys()} == {}
    assert path.stem not in NAMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_can_be_read(path):
    said = "\n".join(docstrings(ast.parse(path.read_text())))
    assert hard_words(said) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_can_be_read(path):
    text = path.read_text()
    assert hard_words(text) == []
    assert "save_memory" not in text


def test_messages_can_be_read():
    said = "\n".join(all_messages())
    assert hard_words(said) == []


def test_the_glossary_is_sorted_and_complete():
    words = re.findall(r"^\| ([\w -]+) \|", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower)
    needed = {"iterate", "evaluation", "pass", "chunk", "run", "stage", "solver state", "restart", "termination"}
    assert needed | {"chunk-invariance"} <= set(words)


def hard_words(text):
    """What a text says that a reader has to guess, and the old names as prose quotes code."""
    phrases = [phrase for phrase in PHRASES if re.search(phrase, text, re.IGNORECASE)]
    return phrases + [name for name in NAMES if f"`{name}`" in text]
