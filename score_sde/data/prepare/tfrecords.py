"""TFRecords as StyleGAN's dataset tools write them, read without TensorFlow.

**Framing.** A file is a row of records: the length (8 bytes, little-endian), the masked CRC-32C of
these, the data, and their masked CRC-32C (4 bytes each).

**Content.** Each record is a protocol-buffer message `tf.train.Example`, a map from names to lists
of numbers or bytes. Here it holds `shape`, three integers (C, H, W), and `data`, the pixels as
C·H·W bytes in that order.

**Sets.** A set lies in one folder as `NAME-r02.tfrecords` … `NAME-r10.tfrecords`, where `rXX`
holds all images with sides of 2^XX pixels; labels, where it has some, are an array file
`NAME-rXX.labels`. Only the largest is read: what is smaller was resized by another filter.
"""

import functools
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from score_sde.atomic import open_regular, shown

ENDING = ".tfrecords"
_RESOLUTION = re.compile(r"(?P<name>.*)-r(?P<level>\d{1,2})\.tfrecords", re.DOTALL)
_HEAD, _CHECKSUM = struct.Struct("<QI"), struct.Struct("<I")

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed."""
_FEW_BYTES = 512
"""Messages of fewer bytes are summed one byte after another."""


def _table() -> np.ndarray:
    register = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        register = (register >> 1) ^ np.where(register & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return register


_TABLE = _table()
_ENTRIES: list[int] = _TABLE.tolist()


def crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes.

    A checksum is linear over GF(2) in the message, so long ones are cut into equal lanes that
    advance together; each lane's register is then moved past the zeros that the later ones stand
    for, and all are added.
    """
    if len(content) < _FEW_BYTES:
        register = 0xFFFFFFFF
        for byte in content:
            register = (register >> 8) ^ _ENTRIES[(register ^ byte) & 0xFF]
        return register ^ 0xFFFFFFFF
    lanes = 32 if len(content) < 2**14 else 512
    steps = -(-len(content) // lanes)
    # Zeros in front of a message leave a register of zeros as it is; the register of ones that it
    # should begin with is the same as the first four bytes inverted.
    padded = np.zeros(lanes * steps, np.uint8)
    start = len(padded) - len(content)
    padded[start:] = np.frombuffer(content, np.uint8)
    padded[start : start + 4] ^= 0xFF
    columns = np.ascontiguousarray(padded.reshape(lanes, steps).T)
    registers = np.zeros(lanes, np.uint32)
    for column in columns:
        registers = (registers >> 8) ^ _TABLE[(registers ^ column) & 0xFF]
    operator = _past_zeros(steps)
    while len(registers) > 1:
        registers = _apply(operator, registers[::2]) ^ registers[1::2]
        operator = _apply(operator, operator)
    return int(registers[0]) ^ 0xFFFFFFFF


def _apply(operator: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """A linear map of registers over GF(2), given by what it makes of each single bit."""
    bits = (registers[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return np.bitwise_xor.reduce(bits * operator, axis=1)


@functools.lru_cache(maxsize=64)
def _past_zeros(count: int) -> np.ndarray:
    """What `count` bytes of zeros make of each single bit of a register."""
    bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
    power = (bits >> 8) ^ _TABLE[bits & 0xFF]
    result = bits
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result


def masked(checksum: int) -> int:
    """A checksum as records store it, so that one of data with checksums in them stays good."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def scan_records(file: BinaryIO) -> tuple[list[tuple[int, int, int]], str]:
    """Where the records of a file lie; their data are passed over.

    Returns:
        Offset, length and checksum of each record's data; and why what follows the last record
        can't be read, empty where nothing follows.
    """
    size = os.fstat(file.fileno()).st_size
    records, place = list[tuple[int, int, int]](), 0
    while place < size:
        file.seek(place)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return records, "the file is cut off"
        length, checksum = _HEAD.unpack(head)
        if masked(crc32c(head[:8])) != checksum:
            return records, "the checksum of a record's length does not agree"
        place += _HEAD.size
        if place + length + _CHECKSUM.size > size:
            return records, "the file is cut off"
        file.seek(place + length)
        records.append((place, length, *_CHECKSUM.unpack(file.read(_CHECKSUM.size))))
        place += length + _CHECKSUM.size
    return records, ""


def read_record(file: BinaryIO, offset: int, length: int) -> bytes:
    """A record's data.

    Raises:
        ValueError: the checksum does not agree.
    """
    file.seek(offset)
    content, tail = file.read(length), file.read(_CHECKSUM.size)
    if len(tail) < _CHECKSUM.size or masked(crc32c(content)) != _CHECKSUM.unpack(tail)[0]:
        raise ValueError("the checksum of the record does not agree")
    return content


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        if place >= len(content) or shift > 63:
            raise ValueError("the record is no tf.train.Example")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol-buffer message: their numbers and values as stored."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, place = _varint(content, place)
        if length is None or place + length > len(content):
            raise ValueError("the record is no tf.train.Example")
        yield key >> 3, content[place : place + length]
        place += length


def _inside(content: memoryview, number: int) -> Iterator[memoryview]:
    """The messages or bytes under one number."""
    for found, value in _fields(content):
        if found == number and isinstance(value, memoryview):
            yield value


def _integers(content: memoryview) -> list[int]:
    """Of an Int64List: packed, or one field for each."""
    numbers = list[int]()
    for found, value in _fields(content):
        if found == 1 and isinstance(value, int):
            numbers.append(value)
        elif found == 1 and isinstance(value, memoryview):
            place = 0
            while place < len(value):
                number, place = _varint(value, place)
                numbers.append(number)
    return numbers


def parse_example(content: bytes) -> np.ndarray:
    """The image of a `tf.train.Example`: uint8 (H, W, C).

    Raises:
        ValueError: it is no such message, or its `data` are not of its `shape`.
    """
    shape, data = None, None
    for features in _inside(memoryview(content), 1):
        for entry in _inside(features, 1):
            name = b"".join(bytes(part) for part in _inside(entry, 1))
            for feature in _inside(entry, 2):
                if name == b"shape":
                    shape = [n for part in _inside(feature, 3) for n in _integers(part)]
                elif name == b"data":
                    data = next(
                        (v for part in _inside(feature, 1) for v in _inside(part, 1)), None
                    )
    if shape is None or data is None:
        raise ValueError("the record lacks shape or data: it is none of StyleGAN's tools")
    if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] * shape[2] != len(data):
        raise ValueError(f"its shape {str(shape)[:60]} does not fit its {len(data):,} bytes")
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(shape).transpose(1, 2, 0))


@dataclass(frozen=True)
class RecordReader:
    """Gives images of one file by (offset, length) of their records.

    Attributes:
        path: the file.
    """

    path: Path

    def __call__(self, place: tuple[int, int]) -> np.ndarray:
        """An image uint8 (H, W, C); raises ValueError where the record is damaged."""
        with open_regular(self.path) as file:
            return parse_example(read_record(file, *place))


def choose_file(folder: Path, names: list[str]) -> Path:
    """The file of the largest images of the one set that lies in a folder.

    Raises:
        ValueError: several sets.
    """
    if len(names) == 1:
        return folder / names[0]
    matched = {name: _RESOLUTION.fullmatch(name) for name in names}
    sets = sorted({shown(match["name"] if match else name) for name, match in matched.items()})
    if len(sets) > 1:
        raise ValueError(
            f"{shown(folder)} holds several sets of TFRecords ({', '.join(sets[:5])}): name the "
            "file of one as --input"
        )
    return folder / max((int(m["level"]), m[0]) for m in matched.values() if m)[1]


def labels_file(path: Path) -> Path | None:
    """The file of labels beside one of TFRecords: of its own resolution, else the set's only one.

    Raises:
        ValueError: there are several, none of its resolution.
    """
    own = path.with_suffix(".labels")
    if own.is_file():
        return own
    match = _RESOLUTION.fullmatch(path.name)
    name = match["name"] if match else path.stem
    pattern = re.compile(re.escape(name) + r"-r\d{1,2}\.labels", re.DOTALL)
    found = sorted(other for other in os.listdir(path.parent) if pattern.fullmatch(other))
    if len(found) > 1:
        raise ValueError(
            f"{shown(path.parent)} holds {', '.join(map(shown, found[:4]))}: call the labels to "
            f"take {shown(own.name)}"
        )
    return path.parent / found[0] if found else None
