"""Partitioners: which rows of a data set each client holds; one a file.

A partitioner takes the data set, the number of partitions, a generator and arguments of its own,
and returns the row indices of each partition. The partitions are disjoint and none is empty. They
cover the data set, but where a partitioner says otherwise.
"""

from fl_app.data.partition.clients import client_split, named_clients, rows_of_clients
from fl_app.data.partition.methods import partitioner

__all__ = ["client_split", "named_clients", "partitioner", "rows_of_clients"]
