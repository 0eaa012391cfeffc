"""Pages, examples, messages, names, types, the wheel."""
