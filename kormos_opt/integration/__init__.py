"""Where Keras calls us. The only folder that replaces methods of Keras for good.

install         which methods are replaced: `compile`, `fit`, `make_train_function`, pickling
fit             `Model.fit` with one of our optimizers: checks, then one of the next two
full_batch_fit  one fit of one optimizer, over the stock loop
chained_fit     one fit of a `Chain`: a stock fit for every stage
fit_callbacks   which callbacks a fit has, and what they are told
sklearn_fit     the fits of `keras.wrappers`
workarounds     defects of Keras under a strategy
"""
