"""Readers under damaged and hostile input: how bytes are broken, and what a reader may do with them.

In a test run each reader gets 300 inputs; ``FUZZ_INPUTS=10000 pytest tests/fuzz`` is for a night. An input that fails
is named by its number: the same number makes it again.
"""

import os
import random

from evals.core.records import UserError
from got.util.errors import visible

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
_DEEP, _LONG = b"[" * 100_000, b"9" * 5_000
_WORDS = (
    *(
        b"null",
        b"true",
        b"NaN",
        b"-1",
        b"1e308",
        b"-1e-320",
        b"{}",
        b"[]",
        b'""',
        b'"\\udc80"',
        b"\\u0000",
        b"\xff\xfe",
    ),
    *(
        b"\x1b]0;x\x07",
        b"<script>",
        b"|",
        b"../../etc/passwd",
        b"/",
        b"\0",
        b"\n",
        b"\r",
        b"\xe2\x80\xa8",
        b"\xe2\x80\xae",
    ),
    *(
        b'"case": ',
        b'"index": ',
        b'"count": 30000000',
        b"0.199",
        b"a" * 300,
        b"--from",
        b"<|box_start|>",
        b"(0,0),(1,1)",
    ),
)


def broken(data, rng):
    """Some bytes with one to four faults: flipped, cut, doubled, moved, or with something nasty put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        a, b = sorted(rng.randrange(len(found) + 1) for _ in range(2))
        kind = rng.randrange(8)
        if kind < 3 and found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
        elif kind == 3:
            del found[a : min(b, a + rng.choice((1, 8, 1000)))]
        elif kind == 4:
            found[a:a] = found[a : min(b, a + 50)]
        elif kind == 5:
            found[a : min(b, a + rng.randrange(9))] = rng.choice(_WORDS)
        elif kind == 6:
            found[a:a] = rng.choice(_WORDS)
        elif rng.randrange(20) == 0:
            found[a:a] = rng.choice((_DEEP, _LONG))
    return bytes(found)


def survives(read, data, allowed=(UserError,), inputs=INPUTS):
    """Reads broken versions of some bytes; any error but those allowed fails, with its number. Returns the results."""
    results = []
    for number in range(inputs):
        hostile = broken(data, random.Random(number))
        try:
            results.append(read(hostile))
        except allowed as error:
            if not visible(str(error)):
                raise AssertionError(f"input {number}: an error without words") from error
        except Exception as error:
            raise AssertionError(f"input {number}: {type(error).__name__}: {str(error)[:300]}") from error
    return results


def through(path, read):
    """A reader of bytes out of one of a file."""

    def of_bytes(data):
        path.write_bytes(data)
        return read(path)

    return of_bytes
