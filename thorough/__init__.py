"""Checks that take long and need not run at every change: the test suites of scipy and of Keras, with this package in
the way. `make test-thorough` runs them; each plugin here has the list of the tests that cannot pass, and why."""
