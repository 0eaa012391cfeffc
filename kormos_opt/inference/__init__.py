"""What a fitted model says about its weights: standard errors, intervals, tests, bands. Knows no fit that runs.

Every figure comes from the outputs of the model and their exact derivatives, in float64.
"""
