"""The columns of several files together."""

from collections.abc import Sequence

import pyarrow as pa


def common(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the columns of all files, in the order in which they appear.

    A column that is null throughout a file has the type that it has in the others.

    Raises
    ------
    ValueError
        If a column has different types.
    """
    plain = [_without_dictionaries(one) for one in schemas]
    try:
        return pa.unify_schemas(plain).with_metadata(schemas[0].metadata)
    except pa.ArrowException as error:
        raise ValueError(f"its files have different types: {error}") from None


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch with the columns of ``schema``; those that it lacks are null."""
    known = {*batch.schema.names}
    arrays = [
        _as(batch.column(field.name), field.type)
        if field.name in known
        else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    for index, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(index, field.with_type(field.type.value_type))
    return schema


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array if array.type == kind else array.cast(kind)
