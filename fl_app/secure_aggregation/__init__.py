"""Secure aggregation: the server learns the sum of the clients' integers, and of each one nothing.

This is SecAgg+ (Bell, Bonawitz, Gascón, Lepoint & Raykova, CCS 2020; after Bonawitz et al., CCS
2017) for a server that is honest but curious, over the integers modulo 2^k of the codec
``modular``. A client i talks to its group: itself and its neighbours. It sends::

    y_i = x_i + PRG(b_i) + sum_{j in group, j > i} PRG(s_ij) - sum_{j in group, j < i} PRG(s_ij)

where b_i is a seed of its own and s_ij a secret that it shares with j. In the sum over all clients
the masks of pairs cancel. The rest is taken off with the help of the others, in four stages:

1. ``KEYS``: every client of the round makes two new pairs of keys and sends the public ones.
2. ``SHARES``: it gets those of its group, draws b_i, and hands every member a share of b_i and a
   share of its mask key, encrypted, by way of the server.
3. The round's training: with the model come the others' shares; y_i goes up.
4. ``REVEAL``: of every member, a client sends either its share of the seed, if y arrived, or its
   share of the mask key, if that client has dropped out. Never both: they would unmask y.

- ``settings``: groups and thresholds of a run.
- ``primitives``: key agreement, encryption, secret sharing and the mask generator.
- ``member``: one client's half of a round.
- ``client``: the ClientApp's half of the messages; ``sum`` is the server's.
- ``checks``: combinations of options that make no sense.
"""
