"""An optimizer belongs to the first model that is compiled with it: what a fit remembers is that of one model.

Another model that is compiled with the same object gets an optimizer of its own, with the same settings.
"""

import weakref

import keras


class OwnedByOneModel:
    """A mixin of our optimizers. Their files and their results are then those of one model too."""

    _owner = None  # the model, as a weak reference

    def for_model(self, model: keras.Model):
        """The optimizer for `model`: this one, or a new one with the same settings if it belongs to another model."""
        if self.belongs_to_another(model):
            return self.fresh().for_model(model)
        object.__setattr__(self, "_owner", weakref.ref(model))  # Keras would track it
        return self

    def belongs_to_another(self, model: keras.Model) -> bool:
        """Whether another model was compiled with it, even if that model is gone."""
        return self._owner is not None and self._owner() is not model

    def fresh(self):
        """A new optimizer with the same settings."""
        return type(self).from_config(self.get_config())
