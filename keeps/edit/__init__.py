"""Ways to change single facts that a model knows: in its weights, or beside them; one file a method.

Read ``rome``, then ``memit``, then ``grace``. A new method is a new file here; nothing lists it by hand.
"""
