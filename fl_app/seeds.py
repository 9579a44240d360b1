"""Seeds of turns: what a client draws in a round."""

import numpy as np


def turn_seed(seed: int, server_round: int, partition: int) -> int:
    """Return the seed of one client's turn, unrelated to that of any other turn."""
    return int(np.random.SeedSequence([seed, server_round, partition]).generate_state(1)[0])
