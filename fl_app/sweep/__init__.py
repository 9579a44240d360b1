"""Sweeps: many runs by one command.

- ``first_job``: what is checked before anything starts. ``job``: one run of a sweep.
- ``summary``: the table and files at its end.
- ``superlinks``: the SuperLinks that its runs share.
"""
