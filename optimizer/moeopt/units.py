"""Sizes, counts and times: read as people write them, kept as integers, printed for people.

`80GB` is 80·10⁹ bytes and `80GiB` is 80·2³⁰; nothing is ever guessed between the two.
"""

import re
from contextlib import suppress
from fractions import Fraction

from moeopt.errors import InputError

_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12, "P": 10**15}
_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_NUMBER = re.compile(r"\s*([+-]?\d[\d_,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*([^\d\s.,]*)\s*")
GIB = 2**30
GPU_HOUR_NS = 3600 * 10**9
OBJECTIVE_UNITS = {"step_time": "ns", "peak_memory": "bytes", "gpus": "GPUs", "cost": "GPU*ns per step"}
"""Objective -> the unit of its integer."""


def _split(text: object, field: str, example: str) -> tuple[Fraction, str]:
    if isinstance(text, bool) or not isinstance(text, (int, float, str)) or len(str(text)) > 100:
        raise InputError(f"{field}: {text!r} is not a size; write it like {example}")
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        raise InputError(f"{field}: {text!r} is not a size; write it like {example}")
    return Fraction(match[1].replace("_", "").replace(",", "")), match[2]


def _integer(value: Fraction, text: object, field: str) -> int:
    if value.denominator != 1:
        raise InputError(f"{field}: {text!r} is {float(value)}, not a whole number")
    if value < 0:
        raise InputError(f"{field}: {text!r} is negative")
    return int(value)


def parse_bytes(text: object, field: str = "size") -> int:
    """Bytes from `80GiB`, `80GB`, `149.2GB` or a plain integer of bytes. Raises InputError for anything else."""
    number, unit = _split(text, field, "80GiB (80·2³⁰) or 80GB (80·10⁹)")
    if not unit:
        return _integer(number, text, field)
    if unit.upper() not in _BYTES:
        raise InputError(f"{field}: {text!r} has the unit {unit!r}; known are B, KB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return _integer(number * _BYTES[unit.upper()], text, field)


def parse_memory(text: object, field: str = "memory") -> int:
    """Bytes of one GPU's memory. A number without a unit is bytes, as in JSON answers; one below 1 MiB is refused: it
    was meant in another unit."""
    size = parse_bytes(text, field)
    if 0 < size < 2**20:
        raise InputError(f"{field}: {text!r} is {size:,} bytes; write it with its unit, like 80GiB or 80GB")
    return size


def parse_bandwidth(text: object, field: str = "bandwidth") -> float:
    """Bytes a second from `50GB/s` or a plain number; `400Gb/s`, which counts bits, is refused like any other unit."""
    example = "bytes a second, like 50.0e+9 or 50GB/s (a port of 400 Gb/s moves that)"
    number, unit = _split(text, field, example)
    if unit and not (unit.endswith("B/s") and unit.removesuffix("/s").upper() in _BYTES):
        raise InputError(f"{field}: {text!r} has the unit {unit!r}; write {example}")
    return float(number * (_BYTES[unit.removesuffix("/s").upper()] if unit else 1))


def parse_count(text: object, field: str = "count") -> int:
    """A count from `30B`, `4.4T`, `512` or `1_024`. Raises InputError for anything else."""
    number, unit = _split(text, field, "512, 30B or 4.43B")
    if unit.upper() not in _DECIMAL:
        raise InputError(f"{field}: {text!r} has the suffix {unit!r}; known are K, M, B (or G), T, P")
    return _integer(number * _DECIMAL[unit.upper()], text, field)


def is_count(text: object) -> bool:
    """Whether this is a count, with or without a suffix."""
    try:
        parse_count(text)
    except InputError:
        return False
    return True


def parse_plain_count(text: object, field: str = "count") -> int:
    """A count in plain digits: sequence lengths, batches and GPUs, of which people say 32K for 32,768 as for 32,000.
    Raises InputError with both numbers for one with a suffix."""
    count = parse_count(text, field)
    unit = _split(text, field, "512")[1].upper()
    if not unit:
        return count
    binary = {"K": 2**10, "M": 2**20}.get(unit)
    other = "" if binary is None else f" or {count * binary // _DECIMAL[unit]:,}"
    raise InputError(f"{field}: {text!r} may be {count:,}{other}; write the number")


def parse_duration_ns(text: object, field: str = "duration") -> int:
    """Nanoseconds from `3s`, `120ms`, `1.5us`; a plain number is seconds."""
    number, unit = _split(text, field, "1.5s or 120ms")
    if (unit or "s") not in _SECONDS:
        raise InputError(f"{field}: {text!r} has the unit {unit!r}; known are ns, us, ms, s, min, h")
    return _integer(Fraction(round(number * _SECONDS[unit or "s"])), text, field)


def decimals_of(text: object) -> Fraction:
    """Half a unit of the last digit written, in the unit written: 0.05 for `4.4B`, which stands for 4.35B to 4.45B."""
    match = _NUMBER.fullmatch(str(text))
    if match is None:
        return Fraction(0)
    mantissa, _, exponent = match[1].lower().replace("_", "").replace(",", "").partition("e")
    return Fraction(10) ** (int(exponent or 0) - len(mantissa.partition(".")[2])) / 2


def format_bytes(count: int) -> str:
    """`71.25 GiB`, `512 MiB`, `96 B`."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"


def format_count(count: int) -> str:
    """`671.03B`, `4.43B`, `512`."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if abs(count) >= size:
            return f"{count / size:.2f}{unit}"
    return f"{count:,}"


def format_ns(nanoseconds: int) -> str:
    """`12.345 s`, `3.21 ms`, `45.0 us`."""
    for unit, size, places in (("s", 10**9, 3), ("ms", 10**6, 2), ("us", 10**3, 1)):
        if abs(nanoseconds) >= size:
            return f"{nanoseconds / size:,.{places}f} {unit}"
    return f"{nanoseconds} ns"


def format_gpu_hours(gpu_ns: int) -> str:
    """`2.0952 GPU-hours`, `0.176171 GPU-hours` from GPUs times nanoseconds."""
    hours = gpu_ns / GPU_HOUR_NS
    return f"{hours:,.4f} GPU-hours" if hours >= 1 else f"{hours:.6f} GPU-hours"


def parse_percent(value: str, field: str) -> Fraction:
    """A share written as a percentage (`0.5%`), exactly. Raises InputError."""
    with suppress(ValueError, ZeroDivisionError):
        share = Fraction(value.removesuffix("%").strip()) / 100
        if value.endswith("%") and 0 <= share <= 1:
            return share
    raise InputError(f"{field}: {value!r} is not a percentage from 0% to 100%")
