"""The page on troubleshooting has an entry for every message, and no other."""

import re
from pathlib import Path

import pytest

from tests.support.messages import GAP, all_messages

pytestmark = pytest.mark.quick

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
MESSAGES = all_messages()


def entries():
    """What is quoted at the beginning of the items of the page: patterns of messages."""
    page = PAGE.read_text()
    heads = re.findall(r"^\* ((?:`[^`]+`,\s+)*`[^`]+`):", page[page.index("## How a fit ends") :], flags=re.MULTILINE)
    return [quoted for head in heads for quoted in re.findall(r"`([^`]+)`", head)]


def matches(entry, message):
    return re.search(".*".join(map(re.escape, entry.split(GAP))), message) is not None


@pytest.mark.parametrize("message", MESSAGES, ids=MESSAGES.get)
def test_every_message_has_an_entry(message):
    assert any(matches(entry, message) for entry in entries()), f"docs/troubleshooting.md says nothing of: {message}"


def test_every_entry_is_of_a_message():
    unknown = [entry for entry in entries() if not any(matches(entry, message) for message in MESSAGES)]
    assert not unknown
    assert len(entries()) > 100


def test_no_entry_is_of_everything():
    counts = {entry: sum(matches(entry, message) for message in MESSAGES) for entry in entries()}
    assert {entry: count for entry, count in counts.items() if count > 4} == {}
