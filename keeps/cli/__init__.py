"""The command ``keeps``: one module a command, options of methods generated from their settings.

Nothing in this room imports a tensor library at the top of a module, so that ``keeps --help`` is instant.
"""
