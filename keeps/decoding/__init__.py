"""Several prompts or models decoded in step: batched, with caches, every chosen token appended to all of them.

Read ``engine``, then ``combine``. A way of decoding is a function on logits; what answers with one is in ``answering``,
and what puts one into transformers' own ``generate`` is in ``processor``.
"""
