"""Every private name of Keras and TensorFlow that we use, and nothing else of ours.

Each is pinned by a test of `tests/test_keras_contract.py`, so a new version of Keras breaks a test with a name.
"""
