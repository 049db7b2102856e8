"""Ways to make one model of several: one file a method, each a function of a piece of a tensor.

Read ``task_arithmetic``, then ``ties``. A new method is a new file here; nothing lists it by hand. The contract is
in ``keeps/weights/merge_method.py``. Nothing here imports a tensor library.
"""
