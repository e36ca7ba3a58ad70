# SPDX-License-Identifier: MIT
"""The loop of the adaptive coder over binary decisions (see adaptive.py), in what numba and plain Python have in common.

Numbers are integers below 2^63; arrays may be lists. Where numba is not installed it runs as it stands.
"""

import math
from typing import Any, Final

try:
    from numba import njit
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Any:  # type: ignore[no-redef]
        """Leaves a function as it is."""
        return lambda function: function
else:
    COMPILED = True

ENCODE, DECODE, COUNT = 0, 1, 2
N_AROUND: Final = 10  # classes of the magnitudes around a value
N_BEFORE: Final = 3  # classes of the magnitude at the same place in the map before
N_UNARY: Final = 14  # decisions of a magnitude before the Exp-Golomb rest
N_REST: Final = 32  # at most so many bits in it
FIRST_STATE: Final = (1 << 15, 1 << 15, 0)  # a quick and a slow estimate of the probability of 1, over 2^16; decisions seen
BORROWED: Final = 2  # decisions that an estimate which is not its own yet counts for
QUICK, SLOW = 3, 6  # an estimate moves by 2^-3 or 2^-6 of what it was wrong by, in the beginning by more
LEAST: Final = 16  # of a probability, over 2^16


def n_contexts(n_maps: int) -> int:
    """Adaptive probabilities of a stream of n maps: of each map by itself, of all maps together, and of the rests."""
    return (n_maps + N_BEFORE) * N_AROUND * N_UNARY + 2 * N_REST


@njit(cache=True)
def write(data, coder):  # type: ignore[no-untyped-def]
    """The highest byte of low goes out; a carry runs back into the bytes before."""
    place = coder[3]
    if coder[0] >> 32:
        back = place - 1
        while data[back] == 255:
            data[back] = 0
            back -= 1
        data[back] += 1
    if place == len(data):  # what follows is thrown away
        coder[4] = 1
        place = 1
        data[0] = 0
    data[place] = (coder[0] >> 24) & 255
    coder[0] = (coder[0] & 0xFFFFFF) << 8
    coder[3] = place + 1


@njit(cache=True)
def read(data, coder):  # type: ignore[no-untyped-def]
    """The next byte comes into code; past the end there are zeros."""
    coder[2] = (coder[2] << 8) | (data[coder[3]] if coder[3] < len(data) else 0)
    coder[3] += 1


@njit(cache=True)
def decide(mode, bit, first, second, data, states, coder, bits):  # type: ignore[no-untyped-def]
    """One decision under the contexts first and second (-1: none, an even chance); returns it.

    coder: low, range, code, place in data, whether data was too short. Other modes than DECODE are told `bit`.
    """
    if first < 0:
        one = 1 << 15
    elif second < 0:
        one = (states[3 * first] + states[3 * first + 1]) >> 1
    else:
        if states[3 * first + 2] == 0:  # a map's own estimate begins as the common one
            states[3 * first] = states[3 * second]
            states[3 * first + 1] = states[3 * second + 1]
            states[3 * first + 2] = BORROWED
        one = (states[3 * first] + states[3 * first + 1] + states[3 * second] + states[3 * second + 1]) >> 2
    one = min(max(one, LEAST), 65536 - LEAST)
    bound = (coder[1] >> 16) * one
    if mode == DECODE:
        bit = 1 if coder[2] < bound else 0
    if mode == COUNT:
        bits[0] -= math.log2((one if bit else 65536 - one) / 65536.0)
    elif bit:
        coder[1] = bound
    else:
        coder[1] -= bound
        if mode == ENCODE:
            coder[0] += bound
        else:
            coder[2] -= bound
    while mode != COUNT and coder[1] < 1 << 24:
        coder[1] <<= 8
        if mode == ENCODE:
            write(data, coder)
        else:
            read(data, coder)
    if first >= 0:
        for context in (first, second):
            if context >= 0:
                at = 3 * context
                seen = states[at + 2]
                target = 65535 if bit else 0
                quick, slow = min(seen + 1, QUICK), min(seen + 1, SLOW)
                states[at] += (target - states[at]) >> quick
                states[at + 1] += (target - states[at + 1]) >> slow
                states[at + 2] = min(seen + 1, SLOW)
    return bit


@njit(cache=True)
def around_of(values, start, row, column, columns):  # type: ignore[no-untyped-def]
    """Class 0..N_AROUND-1 of the magnitudes around a place: twice left and above, once the corners and two further."""
    here = start + row * columns + column
    total = 0
    if column > 0:
        total += 2 * abs(values[here - 1])
    if column > 1:
        total += abs(values[here - 2])
    if row > 0:
        above = here - columns
        total += 2 * abs(values[above])
        if column > 0:
            total += abs(values[above - 1])
        if column + 1 < columns:
            total += abs(values[above + 1])
    if row > 1:
        total += abs(values[here - 2 * columns])
    if total < 5:
        return total
    if total < 8:
        return 5
    if total < 14:
        return 6
    if total < 26:
        return 7
    return 8 if total < 60 else 9


@njit(cache=True)
def code(mode, n_maps, rows, columns, values, data, states, coder, bits):  # type: ignore[no-untyped-def]
    """All values of all maps, in their order; returns the bytes used, -1 where data is too short, and the ideal bits."""
    coder[1] = 0xFFFFFFFF
    if mode == DECODE:
        for _ in range(4):
            read(data, coder)
    common = n_maps * N_AROUND * N_UNARY
    rest = common + N_BEFORE * N_AROUND * N_UNARY
    size = rows * columns
    for which in range(n_maps):
        start = which * size
        for row in range(rows):
            if mode == DECODE and coder[3] > len(data):  # past the end there are only zeros, which could go on for long
                return coder[3], bits[0]
            for column in range(columns):
                place = start + row * columns + column
                around = around_of(values, start, row, column, columns)
                before = min(abs(values[place - size]), 2) if which else 0
                first = (which * N_AROUND + around) * N_UNARY
                second = common + (before * N_AROUND + around) * N_UNARY
                value = values[place] if mode != DECODE else 0
                magnitude = abs(value)
                found = 0
                while found < N_UNARY and decide(
                    mode, 1 if magnitude > found else 0, first + found, second + found, data, states, coder, bits
                ):
                    found += 1
                if found == N_UNARY:
                    more = magnitude - N_UNARY + 1  # Exp-Golomb of order 0 of what is left
                    length = 0
                    while length < N_REST - 1 and decide(
                        mode, 1 if more >> (length + 1) else 0, rest + length, -1, data, states, coder, bits
                    ):
                        length += 1
                    number = 1
                    for k in range(length - 1, -1, -1):
                        context = rest + N_REST + k
                        number = (number << 1) | decide(mode, (more >> k) & 1, context, -1, data, states, coder, bits)
                    found = N_UNARY + number - 1
                if found:
                    negative = decide(mode, 1 if value < 0 else 0, -1, -1, data, states, coder, bits)
                    if mode == DECODE:
                        values[place] = -found if negative else found
    if mode == ENCODE:
        for _ in range(4):
            write(data, coder)
    return (-1 if coder[4] else coder[3]), bits[0]
