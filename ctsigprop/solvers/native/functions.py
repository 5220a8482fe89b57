"""Elementary functions as text that is inlined, so that whole loops run in vector registers.

Errors are one to two units in the last place, of tanh up to three. Arguments beyond the range of a
reduction give NaN, so that the sample is left to the functions of the library.
"""

from __future__ import annotations

__all__ = ["FUNCTIONS"]

FUNCTIONS = '''
import functools
import math
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

INLINE = {"error_model": "numpy", "fastmath": {"contract", "arcp"}, "forceinline": True,
          "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False, "no_rewrites": True}
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


def first_if(relation):
    """Return what takes the first of two numbers if they stand so, else the second, NaN or not."""
    def choose(typing, a, b):
        whole = isinstance(a, types.Integer) and isinstance(b, types.Integer)
        kind = types.int64 if whole else types.float64
        def select(context, builder, signature, values):
            compare = builder.icmp_signed if whole else builder.fcmp_ordered
            return builder.select(compare(relation, *values), *values)
        return kind(kind, kind), select
    return intrinsic(choose)


larger, smaller = first_if(">"), first_if("<")


@njit(**INLINE)
def power_of_two(shifted):
    return number((bits(shifted) << 52) + (1023 << 52))


@njit(**INLINE)
def rest(x):
    shifted = x * 1.4426950408889634 + MAGIC
    n = shifted - MAGIC
    return shifted, (x - n * 0.6931471803691238) - n * 1.9082149292705877e-10


@njit(**INLINE)
def reduced(x):
    shifted, r = rest(x)
    s = r * r
    q = s * s
    low = (0.5 + r * 0.16666666666666669) + s * (0.04166666666662064 + r * 0.008333333333329793)
    middle = (0.0013888888918939168 + r * 0.00019841269864380513) + s * (
        2.4801518641395993e-05 + r * 2.75572664186123e-06)
    high = 2.7621338669142925e-07 + r * 2.510134692835034e-08
    return shifted, r + s * (low + q * (middle + q * high))


@njit(**INLINE)
def within(x):
    """Keep to where the power of two is from 0 to infinity."""
    return smaller(710.0, larger(-709.0, x))


@njit(**INLINE)
def exp(x):
    shifted, p = reduced(within(x))
    return power_of_two(shifted) * (1.0 + p)


@njit(**INLINE)
def halved(x):
    """Return a power of two, and even and odd: exp(x) = power (even + odd) / (even - odd)."""
    shifted, r = rest(x)
    s = r * r
    even = 1.0 + s * (0.1111077930373918 + s * 0.0009917317324332697)
    odd = r * (0.5 + s * (0.013887229852031469 + s * 3.304115622094299e-05))
    return power_of_two(shifted), even, odd


@njit(**INLINE)
def fermi(x):
    """Return 1 / (1 + exp(x))."""
    power, even, odd = halved(within(x))
    below = even - odd
    return below / (below + power * (even + odd))


@njit(**INLINE)
def expm1(x):
    shifted, p = reduced(x)
    scale = power_of_two(shifted)
    value = scale * p + (scale - 1.0)
    value = math.inf if x > 709.4 else value
    return -1.0 if x < -708.0 else value


@njit(**INLINE)
def parted(x):
    """Return n and m of x = m 2**n, with m from sqrt(1/2) to sqrt(2)."""
    whole = (bits(x) - 4604544271217802189) >> 52  # the bits of sqrt(1/2)
    # an integer of few bits becomes a float without a conversion that few processors have
    return number(whole + 4843621399236968448) - MAGIC, number(bits(x) - (whole << 52))


@njit(**INLINE)
def log(x):
    small = x < 2.2250738585072014e-308
    y = x * 18014398509481984.0 if small else x
    e, m = parted(y)
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
def near_log2(x):
    """Return the logarithm of a normal number above 0, to 5e-8."""
    e, m = parted(x)
    f = m - 1.0
    s = f * f
    q = s * s
    r = (1.4426947724 - f * 0.72135714898) + s * (0.48093944517 - f * 0.36008721361)
    r = r + q * ((0.28670744539 - f * 0.25006905848) + s * (0.23689046071 - f * 0.14574452234))
    return e + f * r


@njit(**INLINE)
def near_exp2(x):
    """Return a power of two that is a normal number, to 2e-9."""
    shifted = x + MAGIC
    r = x - (shifted - MAGIC)
    s = r * r
    high = (0.055503287766 + r * 0.0096184889582) + s * (0.0013399931365 + r * 0.00015345812048)
    p = (1.0000000006 + r * 0.69314720574) + s * (0.24022646891 + r * high)
    return power_of_two(shifted) * p


@njit(**INLINE)
def tanh(x):
    power, even, odd = halved(2.0 * smaller(20.0, larger(-20.0, x)))
    more, less = power + 1.0, power - 1.0
    return (odd * more + even * less) / (even * more + odd * less)


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
'''
