"""Examples that anyone can run: `python -m examples.demo`."""
