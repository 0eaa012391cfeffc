"""What tests share: models and data, doubles made of numpy, messages, marks."""
