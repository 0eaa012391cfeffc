"""Where a chain stands among its optimizers, and what it has counted so far. Files carry it."""

from typing import NamedTuple


class ChainState(NamedTuple):
    """Where a chain stands.

    Attributes:
        stage: The index of the optimizer that is at work.
        epochs: How many epochs it has had.
        passes: Passes over the data, in the stages before it and in it.
        products: Hessian-vector products, in the stages before it and in it.
        passes_before: Passes over the data that its own count does not include.
        products_before: Hessian-vector products that its own count does not include.
        is_over: Whether the last stage has ended.
    """

    stage: int = 0
    epochs: int = 0
    passes: int = 0
    products: int = 0
    passes_before: int = 0
    products_before: int = 0
    is_over: bool = False

    def counted(self, passes: int, products: int) -> "ChainState":
        """After another epoch of a solver, which counts by itself; from zero again if it has started afresh."""
        before = self
        if passes <= self.passes - self.passes_before:
            before = self._replace(passes_before=self.passes, products_before=self.products)
        return before._replace(
            epochs=self.epochs + 1, passes=before.passes_before + passes, products=before.products_before + products
        )

    def after_stage(self, stages: int) -> "ChainState":
        """Where a chain of so many stages stands when this one is over."""
        if self.stage + 1 == stages:
            return self._replace(is_over=True)
        return ChainState(self.stage + 1, 0, self.passes, self.products, self.passes, self.products)
