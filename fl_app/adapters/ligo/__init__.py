"""LiGO as an adapter: a larger model, grown from a smaller one, whose growth operator is trained.

- ``axes``: which axis of which weight grows by which expander, a table for each architecture.
- ``operator``: the operator, and the larger model whose weights it computes.
- ``adapter``: attach, get, set, export. ``rules``: its options.
"""
