"""A class for every other method of `scipy.optimize.minimize`, with what it is good at.

All take the arguments of `ScipyBatchOptimizer` but `method`. Which one when: `docs/how_to_choose_a_solver.md`. What is
the same in all docstrings comes from the registry.
"""

from kormos_opt.optimizers.docstrings import documented
from kormos_opt.optimizers.scipy_batch_optimizer import NamedOptimizer


@documented
class NelderMead(NamedOptimizer):
    """The simplex method, without derivatives: a handful of weights and a loss that is not smooth.

    A simplex of n + 1 points is reflected, expanded, contracted and shrunk by comparing values of the loss. An
    iteration costs one or two evaluations; hundreds of iterations for two weights are usual.
    """

    method = "Nelder-Mead"


@documented
class Powell(NamedOptimizer):
    """Line searches along directions that become conjugate, without derivatives: few weights.

    An iteration is one line search along each of the n directions: n times ten evaluations or so.
    """

    method = "Powell"


@documented
class CG(NamedOptimizer):
    """Nonlinear conjugate gradients: the memory of a few vectors, where even that of L-BFGS is too much.

    The Polak-Ribiere direction adds a multiple of the last direction to the gradient, and a line search follows.
    """

    method = "CG"


@documented
class BFGS(NamedOptimizer):
    """BFGS with a full n x n approximation of the inverse Hessian: up to a few thousand weights.

    It knows more of the curvature than L-BFGS, at the price of n^2 memory and arithmetic in every iteration.
    """

    method = "BFGS"


@documented
class NewtonCG(NamedOptimizer):
    """Newton's method with exact Hessian-vector products: an accurate optimum in few iterations.

    Every iteration solves the Newton equations by conjugate gradients, one product an inner step, and ends them early
    at negative curvature; a line search follows.
    """

    method = "Newton-CG"


@documented
class TNC(NamedOptimizer):
    """A truncated Newton method that takes bounds and needs gradients only.

    The products with the Hessian are difference quotients of the gradient, each of which costs an evaluation.
    """

    method = "TNC"


@documented
class COBYLA(NamedOptimizer):
    """Linear models on a simplex, without derivatives: a few weights under constraints.

    The loss and the constraints are interpolated linearly on a simplex, inside a trust region that shrinks.
    """

    method = "COBYLA"


@documented
class COBYQA(NamedOptimizer):
    """Quadratic models without derivatives: a few weights, with bounds and constraints.

    An epoch is one evaluation, since scipy calls back after each. The first 2n + 1 of them only build the model.
    """

    method = "COBYQA"


@documented
class SLSQP(NamedOptimizer):
    """Sequential quadratic programming: up to some hundred weights under smooth constraints.

    Every iteration solves a quadratic program of the loss and the linearized constraints, n^3 arithmetic.
    """

    method = "SLSQP"


@documented
class TrustConstr(NamedOptimizer):
    """A trust-region method for constraints of all kinds, with exact Hessian-vector products.

    Without inequalities it is the Byrd-Omojokun method, with them a barrier method.
    """

    method = "trust-constr"


@documented
class Dogleg(NamedOptimizer):
    """The dogleg trust-region method with the full Hessian, which has to be positive definite.

    For convex losses such as those of generalized linear models. The Hessian costs n products in every iteration.
    """

    method = "dogleg"


@documented
class TrustNCG(NamedOptimizer):
    """Newton's method in a trust region, by conjugate gradients: goes on where the Hessian is not positive definite.

    Steihaug's method: the inner iteration stops at the region's edge or at negative curvature and takes what it has.
    """

    method = "trust-ncg"


@documented
class TrustExact(NamedOptimizer):
    """A trust-region method that solves every subproblem almost exactly, with the full Hessian.

    The fewest iterations of all, for small and hard problems: n products and several factorizations in each.
    """

    method = "trust-exact"


@documented
class TrustKrylov(NamedOptimizer):
    """A trust-region method on Krylov subspaces: trust-ncg that goes on along the region's edge.

    Needs fewer iterations than trust-ncg where the Hessian is indefinite, and more products in each.
    """

    method = "trust-krylov"
