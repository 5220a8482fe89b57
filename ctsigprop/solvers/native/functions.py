"""Elementary functions as text that is inlined, so that whole loops run in vector registers.

Errors are one to two units in the last place. Arguments beyond the range of a reduction give NaN,
so that the sample is left to the functions of the library.
"""

from __future__ import annotations

__all__ = ["FUNCTIONS"]

FUNCTIONS = """
import math
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

INLINE = {"error_model": "numpy", "fastmath": {"contract", "arcp"}, "forceinline": True,
          "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer, kept in the low bits


@intrinsic
def bits(typing, x):
    def cast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))
    return types.int64(types.float64), cast


@intrinsic
def number(typing, x):
    def cast(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())
    return types.float64(types.int64), cast


@njit(**INLINE)
def power_of_two(shifted):
    return number((bits(shifted) << 52) + (1023 << 52))


@njit(**INLINE)
def reduced(x):
    shifted = x * 1.4426950408889634 + MAGIC
    n = shifted - MAGIC
    r = (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10
    s = r * r
    q = s * s
    low = (0.5 + r * 0.16666666666666669) + s * (0.04166666666662064 + r * 0.008333333333329793)
    middle = (0.0013888888918939168 + r * 0.00019841269864380513) + s * (
        2.4801518641395993e-05 + r * 2.75572664186123e-06)
    high = 2.7621338669142925e-07 + r * 2.510134692835034e-08
    return shifted, r + s * (low + q * (middle + q * high))


@njit(**INLINE)
def exp(x):
    shifted, p = reduced(x)
    value = power_of_two(shifted) * (1.0 + p)
    value = math.inf if x > 709.4 else value
    return 0.0 if x < -708.0 else value


@njit(**INLINE)
def expm1(x):
    shifted, p = reduced(x)
    scale = power_of_two(shifted)
    value = scale * p + (scale - 1.0)
    value = math.inf if x > 709.4 else value
    return -1.0 if x < -708.0 else value


@njit(**INLINE)
def log(x):
    small = x < 2.2250738585072014e-308
    y = x * 18014398509481984.0 if small else x
    shift = bits(y) - 4604544271217802189  # of sqrt(1/2)
    whole = shift >> 52
    m = number(bits(y) - (whole << 52))
    # an integer of few bits becomes a float without a conversion that few processors have
    e = number(whole + 4843621399236968448) - MAGIC
    e = e - 54.0 if small else e
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    q = s * s
    r = (0.666666666666667 + s * 0.3999999999989322) + q * (
        (0.28571428628810996 + s * 0.22222210674238224)
        + q * ((0.1818292251353228 + s * 0.1533061730630344) + q * 0.14630031368677374))
    value = (e * 1.9082149292705877e-10 + f * s * r) + 2.0 * f + e * 0.6931471803691238
    value = value if x < math.inf else x
    value = -math.inf if x == 0.0 else value
    return math.nan if x < 0.0 else value


@njit(**INLINE)
def tanh(x):
    y = 20.0 if x > 20.0 else (-20.0 if x < -20.0 else x)
    m = expm1(2.0 * y)
    return m / (m + 2.0)


@njit(**INLINE)
def sinh(x):
    m = expm1(abs(x))
    value = 0.5 * (m + m / (m + 1.0))
    value = math.inf if m == math.inf else value
    return value if x >= 0.0 else -value


@njit(**INLINE)
def cosh(x):
    e = exp(abs(x))
    return 0.5 * (e + 1.0 / e)


@njit(**INLINE)
def quarters(x):
    shifted = x * 0.6366197723675814 + MAGIC
    n = shifted - MAGIC
    r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21
    r = r if abs(x) < 100000.0 else math.nan
    s = r * r
    q = s * s
    sine = r + r * s * ((-0.16666666666666666 + s * 0.0083333333333307)
        + q * ((-0.00019841269836385435 + s * 2.7557315910938755e-06)
        + q * (-2.5051092308391914e-08 + s * 1.591530918078099e-10)))
    cosine = (1.0 - 0.5 * s) + q * ((0.041666666666666664 + s * -0.0013888888888887241)
        + q * ((2.4801587298532257e-05 + s * -2.7557317151858707e-07)
        + q * (2.0876121534583808e-09 + s * -1.1380868170025622e-11)))
    return bits(shifted), sine, cosine


@njit(**INLINE)
def sin(x):
    n, sine, cosine = quarters(x)
    value = cosine if n & 1 else sine
    return -value if n & 2 else value


@njit(**INLINE)
def cos(x):
    n, sine, cosine = quarters(x)
    value = sine if n & 1 else cosine
    return -value if (n + 1) & 2 else value


@njit(**INLINE)
def tan(x):
    n, sine, cosine = quarters(x)
    return -cosine / sine if n & 1 else sine / cosine


@njit(**INLINE)
def exprel(x):
    y = x if x != 0.0 else 1.0
    return expm1(y) / y if x != 0.0 else 1.0


@njit(**INLINE)
def sign(x):
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else x)


@njit(**INLINE)
def clip(x, low, high):
    y = low if x < low else x
    return high if y > high else y


@njit(**INLINE)
def holds(condition):
    return 1.0 if condition else 0.0


arctan, power, sqrt = math.atan, math.pow, math.sqrt
"""
