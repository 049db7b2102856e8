"""Methods that take knowledge out of a model: one file a method, found by the registry.

The results lie on disk as adapters, checkpoints or, of what forgets in the prompt alone, as records.
"""
