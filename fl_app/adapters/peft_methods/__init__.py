"""Any method of PEFT, by the name that PEFT's registry has for it.

- ``declared``: which methods there are and what each takes, read from PEFT's source, without it.
- ``support``: which of them can be federated, over which models, and which arguments are data.
- ``rules``: what is checked with the configuration.
- ``adapter``: the adapter.
"""
