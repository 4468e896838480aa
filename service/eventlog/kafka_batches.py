"""
Reads record batches that aiokafka refuses, as far as their bytes can be read at all.

aiokafka fails for a whole batch when one header's name is not UTF-8, and loses what it had
decoded before. This slow reader goes where that happened. Format: magic 2, KIP-98 and KIP-82.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aiokafka.codec import (
    gzip_decode,
    has_lz4,
    has_snappy,
    has_zstd,
    lz4_decode,
    snappy_decode,
    zstd_decode,
)
from aiokafka.record.util import calc_crc32c, decode_varint

# Base offset, length, leader epoch, magic, checksum, attributes, last offset delta, first and
# greatest timestamp, producer id and epoch, base sequence, number of records.
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_FRAME: Final = struct.Struct(">qi")
_CHECKED_FROM: Final = struct.calcsize(">qiibI")
_MAGIC: Final = 2
_CODEC_MASK: Final = 0x07
_APPEND_TIME: Final = 0x08
_CONTROL: Final = 0x20
_CODECS: Final = {
    1: (gzip_decode, lambda: True),
    2: (snappy_decode, has_snappy),
    3: (lz4_decode, has_lz4),
    4: (zstd_decode, has_zstd),
}
_NAMES: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_MALFORMED: Final = (
    ValueError,
    IndexError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    gzip.BadGzipFile,
)


class UnknownCodecError(Exception):
    """Records are compressed in a way that this installation cannot undo; they are all right."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record, bytes as they are."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """
    One batch: its records in order, and the offset after it.

    `damage` says why its records cannot be had; `lost` is how many it claims to hold.
    """

    next_offset: int
    records: tuple[RawRecord, ...] = ()
    damage: str | None = None
    lost: int = 0


def read_batches(data: bytes) -> Iterator[Batch]:
    """
    The whole batches at the beginning of `data`, what a fetch answers.

    Raises: UnknownCodecError.
    """
    at = 0
    while at + _HEADER.size <= len(data):
        base, length = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if length <= 0 or end > len(data):
            return
        yield _read_batch(data[at:end], base)
        at = end


def _read_batch(data: bytes, base: int) -> Batch:
    (_, _, _, magic, checksum, attributes, last, first_ms, most_ms, *_, number) = (
        _HEADER.unpack_from(data)
    )
    if magic != _MAGIC:
        return Batch(base + 1, damage=f"format {magic}", lost=1)
    after = base + last + 1
    if calc_crc32c(data[_CHECKED_FROM:]) != checksum:
        return Batch(after, damage="checksum", lost=number)
    if attributes & _CONTROL:
        return Batch(after)
    try:
        body = bytearray(_plain(data[_HEADER.size :], attributes & _CODEC_MASK))
        records = []
        at = 0
        for _ in range(number):
            record, at = _read_record(body, at, base, first_ms)
            records.append(record)
    except _MALFORMED as error:
        return Batch(after, damage=f"{type(error).__name__}: {error}", lost=number)
    if attributes & _APPEND_TIME:
        records = [
            RawRecord(each.offset, most_ms, each.key, each.value, each.headers) for each in records
        ]
    return Batch(after, tuple(records))


def _plain(body: bytes, codec: int) -> bytes:
    if not codec:
        return body
    decode, is_here = _CODECS.get(codec, (None, lambda: False))
    if decode is None or not is_here():
        raise UnknownCodecError(_NAMES.get(codec, f"codec {codec}"))
    plain: bytes = decode(body)
    return plain


def _read_record(data: bytearray, at: int, base: int, first_ms: int) -> tuple[RawRecord, int]:
    length, at = decode_varint(data, at)
    end = at + length
    if length < 0 or end > len(data):
        raise ValueError("a record is longer than its batch")
    at += 1  # attributes: none are defined
    delta_ms, at = decode_varint(data, at)
    delta, at = decode_varint(data, at)
    key, at = _read_bytes(data, at)
    value, at = _read_bytes(data, at)
    number, at = decode_varint(data, at)
    headers = []
    for _ in range(number):
        name, at = _read_bytes(data, at)
        content, at = _read_bytes(data, at)
        headers.append((name or b"", content))
    return RawRecord(base + delta, first_ms + delta_ms, key, value, tuple(headers)), end


def _read_bytes(data: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise ValueError("a field is longer than its batch")
    return bytes(data[at : at + length]), at + length
