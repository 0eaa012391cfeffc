"""What Keras, TensorFlow, scipy and TFP have to go on doing."""
