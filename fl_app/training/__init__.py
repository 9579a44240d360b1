"""A client's local training.

- ``local``: the client's half of a method. ``loop``: the local loop and its hooks.
- ``optimizers``, ``shampoo``: optimizers and schedules. ``checks``: the rules of their options.
"""
