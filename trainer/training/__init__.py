"""In: a dataset, settings, a start model.

Out: a model folder with manifest and model card.
Touches: the model folder and its checkpoints.
"""
