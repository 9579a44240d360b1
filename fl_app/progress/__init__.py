"""What a run does while it does it, for the person who started it.

Where standard output is a terminal, `display` draws it and the processes of the run `send` it
events; elsewhere `say` prints a line for each phase. Nothing of it is part of the results.
"""
