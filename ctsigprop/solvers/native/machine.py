"""The kernel that runs the tapes of small networks: operations on vectors, one after another.

This module is text for `compiled`; nothing calls it as Python. It is compiled once, for networks of
any kind: what a network does is on its tape (`tape`).
"""

from __future__ import annotations

import math
from typing import Any

Memory = Any

WIDTH = 10
"""Numbers of an instruction: what to do, places d, a and b, how many numbers n in how many rows,
from row to row steps of d, a and b, and one more number x."""

COPY, FILL, ADD, SUB, DIV, MUL, ADD_MUL, ADD_SCALED, DOT = 0, 1, 2, 3, 4, 5, 6, 7, 8
UNARY, BINARY, NORM, LIFT, LOWER, LOOP, AGAIN = 9, 10, 11, 12, 13, 14, 15

EXP, LOG, SIN, COS, TAN, SINH, COSH, TANH, ARCTAN = 0, 1, 2, 3, 4, 5, 6, 7, 8
EXPREL, SQRT, ABS, SIGN = 9, 10, 11, 12
LESS, EQUAL, UNEQUAL, LESS_OR_EQUAL, EITHER, POWER, FROM_BELOW, FROM_ABOVE = 0, 1, 2, 3, 4, 5, 6, 7


def run(m: Memory, q: Memory, first: int, last: int, times: int) -> int:
    """Run the instructions in `q` from `first` to `last` on the memory `m`, so many times."""
    row, sample = 0, 0
    for _ in range(times):
        i = first
        while i < last:
            op, d, a, b, n = q[i], q[i + 1], q[i + 2], q[i + 3], q[i + 4]
            rows, d1, a1, b1, x = q[i + 5], q[i + 6], q[i + 7], q[i + 8], q[i + 9]
            i += WIDTH
            if op == MUL:
                for _1 in range(rows):
                    for k1 in range(n):
                        m[d + k1] = m[a + k1] * m[b + k1]
                    d, a, b = d + d1, a + a1, b + b1
            elif op == ADD:
                for k2 in range(n):
                    m[d + k2] = m[a + k2] + m[b + k2]
            elif op == SUB:
                for k3 in range(n):
                    m[d + k3] = m[a + k3] - m[b + k3]
            elif op == DIV:
                for k4 in range(n):
                    m[d + k4] = m[a + k4] / m[b + k4]
            elif op == COPY:
                for k5 in range(n):
                    m[d + k5] = m[a + k5]
            elif op == ADD_SCALED:  # rows of b, times a number of a
                for _2 in range(rows):
                    by = m[a]
                    if by != 0.0:
                        for k6 in range(n):
                            m[d + k6] += by * m[b + k6]
                    d, a, b = d + d1, a + a1, b + b1
            elif op == DOT:  # of rows
                for _3 in range(rows):
                    total1 = 0.0
                    for k7 in range(n):
                        total1 += m[a + k7] * m[b + k7]
                    m[d] = total1
                    d, a, b = d + d1, a + a1, b + b1
            elif op == FILL:
                for k8 in range(n):
                    m[d + k8] = x
            elif op == ADD_MUL:
                for _4 in range(rows):
                    for k9 in range(n):
                        m[d + k9] += m[a + k9] * m[b + k9]
                    d, a, b = d + d1, a + a1, b + b1
            elif op == UNARY:
                for k10 in range(n):
                    u = m[a + k10]
                    if x == TANH:
                        u = math.tanh(u)
                    elif x == EXP:
                        u = math.exp(u)
                    elif x == LOG:
                        u = math.log(u)
                    elif x == SQRT:
                        u = math.sqrt(u)
                    elif x == ABS:
                        u = abs(u)
                    elif x == SIN:
                        u = math.sin(u)
                    elif x == COS:
                        u = math.cos(u)
                    elif x == TAN:
                        u = math.tan(u)
                    elif x == SINH:
                        u = math.sinh(u)
                    elif x == COSH:
                        u = math.cosh(u)
                    elif x == ARCTAN:
                        u = math.atan(u)
                    elif x == EXPREL:
                        u = math.expm1(u) / u if u != 0.0 else u + 1.0
                    elif u != 0.0:  # the sign
                        u = u / abs(u)
                    m[d + k10] = u
            elif op == BINARY:
                for k11 in range(n):
                    v, w = m[a + k11], m[b + k11]
                    if x == POWER:
                        v = v**w
                    elif x == FROM_BELOW:
                        v = w if v < w else v
                    elif x == FROM_ABOVE:
                        v = w if v > w else v
                    else:
                        yes = (x == LESS and v < w) or (x == LESS_OR_EQUAL and v <= w)
                        yes = yes or (x == EQUAL and v == w) or (x == UNEQUAL and v != w)
                        yes = yes or (x == EITHER and v + w > 0.0)
                        v = 1.0 if yes else 0.0
                    m[d + k11] = v
            elif op == NORM:  # the mean of (v/(atol + rtol max(|y|, |end|)))²
                total2, atol, rtol = 0.0, m[d1], m[a1]
                for k12 in range(n):
                    y, z = abs(m[a + k12]), abs(m[b + k12])
                    y = z if z > y else y
                    y = m[d + k12] / (atol + rtol * y)
                    total2 += y * y
                m[x] = total2 / n
            elif op == LIFT:  # out of a row of a loop; x is the step from entry to entry
                a += row * a1 + sample * b1
                for k13 in range(n):
                    m[d + k13] = m[a + k13 * x]
            elif op == LOWER:  # into a row of a loop
                d += row * d1
                for k14 in range(n):
                    m[d + k14] += m[a + k14]
            elif op == LOOP:
                row, sample = 0, 0
            else:  # again, from so many numbers before, for all rows of x samples
                row += 1
                if row == rows:
                    row, sample = 0, sample + 1
                if sample < x:
                    i -= n
    return 0
