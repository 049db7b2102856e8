"""Ways to teach a model new data by training small parts of it: one file a method.

Read ``full``, then ``lora``, then ``corda``. A new method is a new file here; nothing lists it by hand.
"""
