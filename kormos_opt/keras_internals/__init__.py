"""Whatever we import that Keras and TensorFlow do not export, and nothing else of ours.

Each is pinned by a test of `tests/contract/test_keras_contract.py`: a new version of Keras breaks a test with a name.
"""
