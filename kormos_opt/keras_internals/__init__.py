"""Every private name of Keras and TensorFlow that we use, and nothing else of ours.

Each is pinned by a test of `tests/contract/test_keras_contract.py`: a new version of Keras breaks a test with a name.
"""
