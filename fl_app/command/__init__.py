"""The command ``thinwire``: one file for each of its subcommands.

Help is printed without Hydra, Flower and torch, which a subcommand imports when it starts.
"""
