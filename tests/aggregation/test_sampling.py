"""Samplers: laws over clients, counts, seeds and rounds."""

from hypothesis import given
from hypothesis import strategies as st

from fl_app.aggregation.sampling import SAMPLERS, cyclic

CLIENTS = st.sets(st.integers(0, 30), min_size=1, max_size=12).map(sorted)


@given(CLIENTS, st.data(), st.sampled_from(sorted(SAMPLERS)), st.integers(0, 99))
def test_a_cohort_is_of_distinct_available_clients_and_repeatable(clients, data, name, seed):
    count = data.draw(st.integers(1, len(clients)))
    server_round = data.draw(st.integers(1, 20))
    cohort = SAMPLERS[name](clients, count, seed, server_round)
    assert len(set(cohort)) == count
    assert set(cohort) <= set(clients)
    assert cohort == SAMPLERS[name](clients, count, seed, server_round)


@given(CLIENTS, st.data(), st.integers(0, 99))
def test_cyclic_takes_every_client_once_before_any_twice(clients, data, seed):
    count = data.draw(st.integers(1, len(clients)))
    times = dict.fromkeys(clients, 0)
    for server_round in range(1, 4 * len(clients) + 1):
        for client in cyclic(clients, count, seed, server_round):
            times[client] += 1
        # A cohort that spans two passes may hold the first of the new pass before the last of
        # the old one has had its turn, never more.
        spread = max(times.values()) - min(times.values())
        assert spread <= (1 if count == 1 else 2)


def test_seeds_and_rounds_differ() -> None:
    clients = list(range(10))
    for sampler in SAMPLERS.values():
        drawn = {tuple(sampler(clients, 2, s, r)) for s in range(5) for r in range(1, 6)}
        assert len(drawn) > 10
