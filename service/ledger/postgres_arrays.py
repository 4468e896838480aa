"""Lists as PostgreSQL's binary arrays, put together at once."""

import struct
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

# Dimensions, whether there are NULLs, the type of the elements, how many, where they begin.
_HEADER: Final = struct.Struct(">iiIii")
_SIZE: Final = struct.Struct(">i")
_NULL: Final = _SIZE.pack(-1)
_INTEGER_BYTES: Final = 8


class ArrayDumper(Dumper):
    """
    A list of text, NULL among it; it hands over lists of bytes or whole numbers to their own.

    psycopg's own dumper writes text, bytes as two digits each, value by value, and names another
    type for each size of number, so that a statement is prepared again and again.
    """

    format = Format.BINARY
    oid = psycopg.adapters.types["text"].array_oid
    element_oid = psycopg.adapters.types["text"].oid

    def get_key(self, obj: Sequence[Any], format: Any) -> Any:
        return _kind(obj)

    def upgrade(self, obj: Sequence[Any], format: Any) -> Dumper:
        return _kind(obj)(self.cls)

    def dump(self, obj: Sequence[Any]) -> bytes:
        """Raises: psycopg.DataError for a number that has no place, UnicodeEncodeError."""
        parts = [_HEADER.pack(1, 1, self.element_oid, len(obj), 1)]
        for value in obj:
            if value is None:
                parts.append(_NULL)
            else:
                data = self.encoded(value)
                parts.append(_SIZE.pack(len(data)))
                parts.append(data)
        return b"".join(parts)

    @staticmethod
    def encoded(value: Any) -> bytes:
        """One value in PostgreSQL's binary form."""
        data: bytes = value.encode()
        return data


class _BytesArrayDumper(ArrayDumper):
    oid = psycopg.adapters.types["bytea"].array_oid
    element_oid = psycopg.adapters.types["bytea"].oid

    @staticmethod
    def encoded(value: Any) -> bytes:
        data: bytes = value
        return data


class _NumberArrayDumper(ArrayDumper):
    oid = psycopg.adapters.types["int8"].array_oid
    element_oid = psycopg.adapters.types["int8"].oid

    @staticmethod
    def encoded(value: Any) -> bytes:
        try:
            data: bytes = value.to_bytes(_INTEGER_BYTES, signed=True)
        except OverflowError as error:
            raise psycopg.DataError(f"{value} is no bigint") from error
        return data


def _kind(values: Sequence[Any]) -> type[ArrayDumper]:
    """By the first value that is there; a list of nothing is one of text."""
    for value in values:
        if isinstance(value, bytes):
            return _BytesArrayDumper
        if isinstance(value, int):
            return _NumberArrayDumper
        if value is not None:
            break
    return ArrayDumper
