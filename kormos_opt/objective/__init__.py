"""f(x), its gradient and its Hessian products, from the model's own train step. Does not know which solver asks."""
