"""The problems written by hand for JAX and torch alike: loss functions of a list of weights. No framework is imported.

Each is called with the library, its `log_softmax` and the data.
"""

MOST = 1000  # iterations after which a rival gives up
MEMORY = 10


def _linear(library, log_softmax, x, y):
    return lambda weights: ((x @ weights[0] + weights[1] - y) ** 2).mean()


def _softmax(library, log_softmax, x, y):
    return lambda weights: -(y * log_softmax(x @ weights[0] + weights[1])).sum(1).mean()


def _tanh(library, log_softmax, x, y):
    def fun(weights):
        z = x
        for kernel, bias in (weights[0:2], weights[2:4]):
            z = library.tanh(z @ kernel + bias)
        return -(y * log_softmax(z @ weights[4] + weights[5])).sum(1).mean()

    return fun


def _factorization(library, log_softmax, x, y):
    users, items = (ids[:, 0] for ids in x)

    def fun(weights):
        user, item = weights
        error = (user[users] * item[items]).sum(1) - y[:, 0]
        return (error**2).mean() + 1e-5 * ((user**2).sum() + (item**2).sum())

    return fun


OBJECTIVES = {
    "linear regression 1000x50": _linear,
    "softmax regression 60000x784x10": _softmax,
    "tanh network 784-256-128-10, 10000 rows": _tanh,
    "factorization, 90752 ratings": _factorization,
}
