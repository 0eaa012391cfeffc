"""One fit: its epochs, its runs of solvers, its progress. The only folder where a solver meets an objective."""
