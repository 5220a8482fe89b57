"""The text of a driver: a turn of all lanes, and what is done for one of them after it."""

from __future__ import annotations

__all__ = ["ADVANCE", "CALLS", "DRIVE", "VISITS"]

CALLS = '''
PLAIN = {**INLINE, "forceinline": False}


REALS, WHOLES = types.CPointer(types.float64), types.CPointer(types.int64)


@intrinsic
def evaluate(typing, address, w, parameters, node, out):
    return jump(REALS, REALS, types.float64, types.int64)


@intrinsic
def advance(typing, address, w, q, parameters, atol, field):
    return jump(REALS, WHOLES, REALS, REALS, types.int64)


def jump(*kinds):
    def lower(context, builder, signature, values):
        integer, byte = ir.IntType(64), ir.IntType(8)
        results = [integer.as_pointer(), byte.as_pointer().as_pointer()]
        kind = ir.FunctionType(ir.IntType(32), [*results, *(value.type for value in values[1:])])
        function = builder.inttoptr(values[0], kind.as_pointer())
        with builder.goto_entry_block():
            places = [builder.alloca(result.pointee) for result in results]
        builder.call(function, [*places, *values[1:]])
        return builder.load(places[0])
    return types.int64(types.int64, *kinds), lower


INTEGER, REAL = ir.IntType(64), ir.DoubleType()


def add_up(builder, place, weights, theta=REAL(1.0)):
    """Sum numbers that lie so far from a place, each times its weight: of theta a polynomial."""
    terms = []
    for distance, row in weights.items():
        weight = functools.reduce(
            lambda w, c: builder.fadd(REAL(c), builder.fmul(theta, w)), row[-2::-1], REAL(row[-1]))
        number = builder.load(builder.gep(place, [INTEGER(distance)]))
        terms.append(builder.fmul(weight, number))
    return functools.reduce(builder.fadd, terms)


def weighted(weights):
    """Return what sums numbers at a place, with weights at theta."""
    @intrinsic
    def total(typing, place, theta):
        def lower(context, builder, signature, values):
            return add_up(builder, values[0], weights, values[1])
        return types.float64(REALS, types.float64), lower
    return total


def stage(weights):
    """Return what sets the states of a stage, of so many variables in all lanes."""
    @intrinsic
    def combine(typing, w, count):
        def lower(context, builder, signature, values):
            w, count = values
            lanes = INTEGER(LANES)
            with cgutils.for_range(builder, count) as variable:
                first = builder.gep(w, [builder.mul(variable.index, lanes)])
                with cgutils.for_range(builder, lanes) as lane:
                    x, v = (builder.gep(at, [lane.index]) for at in (first, w))
                    y, z = (builder.gep(x, [INTEGER(at)]) for at in (W_Y, W_Z))
                    size = builder.load(builder.gep(v, [INTEGER(W_SIZE)]))
                    change = builder.fmul(size, add_up(builder, x, weights))
                    builder.store(builder.fadd(builder.load(y), change), z)
            return context.get_dummy_value()
        return types.none(REALS, types.int64), lower
    return combine


@intrinsic
def place(typing, memory, k):
    def lower(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])
    return memory(memory, types.int64), lower
'''

ADVANCE = """
def advance(w, q, parameters, atol, field):
    direction, rtol = w[W_DIRECTION], w[W_RTOL]
    for k_b in range(LANES):
        b = place(w, k_b)
        before = b[W_T]
        chosen_before = b[W_H]
        remaining = b[W_TARGET] - before
        landing = chosen_before * STRETCH >= abs(remaining)
        b[W_SIZE] = remaining if landing else chosen_before * direction
        b[W_LANDING] = 1.0 if landing else 0.0
        b[W_BEFORE] = before
        b[W_LARGEST] = 0.0
        b[W_MEAN] = 0.0
    # stages
    for part in range(q[PARTS]):
        first = FIRST_PART + 3 * part
        start, stop, matrix = q[first], q[first + 1], q[first + 2]
        share = 1.0 / (stop - start)
        if matrix:
            for k_m in range(LANES):
                m = place(w, k_m)
                m[W_WHOLE] = 0.0
                m[W_OTHER] = 0.0
            for c_n in range(start, stop):
                for k_n in range(LANES):
                    n = place(w, k_n)
                    x_n = place(w, c_n * LANES + k_n)
                    y_n, z_n = x_n[W_Y], x_n[W_Z]
                    n[W_WHOLE] += y_n * y_n
                    n[W_OTHER] += z_n * z_n
            for k_r in range(LANES):
                r = place(w, k_r)
                r[W_WHOLE] = sqrt(larger(r[W_WHOLE], r[W_OTHER]) * share)
        for c_e in range(start, stop):
            for k_e in range(LANES):
                e = place(w, k_e)
                x_e = place(w, c_e * LANES + k_e)
                far = larger(abs(x_e[W_Y]), abs(x_e[W_Z]))
                scale = (e[W_WHOLE] if matrix else far) * rtol + atol[c_e]
                ratio = e[W_SIZE] * weighted_error(x_e, 1.0) / scale
                e[W_MEAN] += ratio * ratio
        for k_l in range(LANES):
            l = place(w, k_l)
            l[W_LARGEST] = larger(smaller(l[W_MEAN] * share, math.inf), l[W_LARGEST])
            l[W_MEAN] = 0.0
    attend = 0
    for k in range(LANES):
        v = place(w, k)
        # control
    if attend:
        for c_o in range(q[SIZE]):
            for k_o in range(LANES):
                x_o = place(w, c_o * LANES + k_o)
                x_o[W_O] = x_o[W_Y]
                x_o[W_K] = x_o[W_F]
    for c_g in range(q[SIZE]):
        for k_g in range(LANES):
            g = place(w, k_g)
            x_g = place(w, c_g * LANES + k_g)
            went = g[W_FAILED] == 0.0
            y_g, f_g, z_g, end = x_g[W_Y], x_g[W_F], x_g[W_Z], x_g[W_LAST]
            x_g[W_Y] = z_g if went else y_g
            x_g[W_F] = end if went else f_g
    return attend
"""

VISITS = '''
@njit(**PLAIN)
def renew(w, q, parameters, field):
    """Take the derivatives of stale lanes anew; tell whether they are finite."""
    for i in range(q[SIZE] * LANES):
        y = place(w, i)
        y[W_Z] = y[W_Y]
    evaluate(field, w, parameters, 0.0, W_K)
    total = 0.0
    for k in range(LANES):
        if q[STALE + k]:
            q[STALE + k] = 0
            for c in range(q[SIZE]):
                x = place(w, c * LANES + k)
                x[W_F] = x[W_K]
                total += abs(x[W_K])
    return total < math.inf


@njit(**PLAIN)
def record(w, q, times, out, k):
    """Write the rows that lie in the lane's last step."""
    v, r = place(w, k), place(q, k)
    sample, row, rows, size = r[SAMPLE], r[ROW], q[ROWS], q[SIZE]
    reached, direction = v[W_T], w[W_DIRECTION]
    first = sample * q[ROWS_APART]
    while row < rows and times[first + row] * direction <= reached * direction:
        t = times[first + row]
        start = (row * q[SAMPLES] + sample) * size
        if t == reached and row == rows - 1:
            for c in range(size):
                out[start + c] = v[W_Y + c * LANES]
        else:
            theta = (t - v[W_BEFORE]) / v[W_SIZE]
            for c in range(size):
                x = place(v, c * LANES)
                out[start + c] = x[W_O] + v[W_SIZE] * inside(x, theta)
        row += 1
    r[ROW] = row
    v[W_DUE] = times[first + row] * direction if row < rows else math.inf
    return row
'''

DRIVE = """
def drive(
    w, q, states, slopes, sizes, times, stops, low, high, held, parameters, atol, out, done,
    field, turn,
):
    for _ in range(q[TURNS]):
        if q[USED] == 0:
            return FINISHED
        q[TURN] += 1
        attend = advance(turn, w, q, parameters, atol, field)
        look = q[TURN] % EVERY == 0
        if attend == 0 and not look:
            continue
        stale = 0
        for k in range(LANES):
            v, r = place(w, k), place(q, k)
            if not look and v[W_ATTEND] == 0.0 or r[IN_USE] == 0:
                continue
            sample = r[SAMPLE]
            tried = q[TURN] - r[BEGAN]
            if look and tried > q[MAX_STEPS]:
                return FAILED
            if v[W_ATTEND] == 0.0:
                continue
            over = sample < 0
            if not over:
                if v[W_FAILED] != 0.0:
                    if v[W_MISSED] > RETREATS or v[W_H] < v[W_LEAST]:
                        return FAILED
                    continue
                done[sample] = record(w, q, times, out, k)
                if v[W_T] != v[W_TARGET]:
                    if v[W_H] < v[W_LEAST]:
                        return FAILED
                    continue
                over = r[ROW] == q[ROWS]
                if over:  # what the orbit took
                    if tried > q[MAX_STEPS]:
                        return FAILED
                    rejected = bits(v[W_REJECTED] + MAGIC) - bits(MAGIC)
                    q[STEPS] = larger(q[STEPS], tried - rejected)
                    q[REJECTIONS] = larger(q[REJECTIONS], rejected)
                    calls = tried * (STAGES - 1) + r[EXTRA]
                    q[EVALUATIONS] = larger(q[EVALUATIONS], calls)
            if over and q[NEXT] >= q[SAMPLES]:
                r[IN_USE] = 0
                q[USED] -= 1
                v[W_H] = 0.0
                v[W_TARGET] = v[W_T]
                continue
            if over:  # the next orbit
                sample = q[NEXT]
                q[NEXT] += 1
                r[SAMPLE], r[ROW], r[POINTER] = sample, 1, 0
                r[BEGAN], r[EXTRA] = q[TURN], 0
                for c in range(q[SIZE]):
                    x, at = place(v, c * LANES), sample * q[SIZE] + c
                    x[W_Y], x[W_F] = states[at], slopes[at]
                v[W_H] = sizes[sample]
                first = sample * q[ROWS_APART]
                start, end = times[first], times[first + q[ROWS] - 1]
                v[W_T] = start
                v[W_RECENT], v[W_FAILED] = RECENT, 0.0
                v[W_REJECTED], v[W_MISSED] = 0.0, 0.0
                v[W_DUE] = times[first + 1] * w[W_DIRECTION]
                furthest = larger(abs(start), abs(end))
                v[W_LEAST] = ROUNDINGS * (number(bits(furthest) + 1) - furthest)
            else:
                r[POINTER] += 1
                r[EXTRA] += 1
                r[STALE] = stale = 1
            first = sample * q[STOPS_APART] + r[POINTER]
            v[W_TARGET] = stops[first]
            v[W_LOW] = low[first]
            v[W_HIGH] = high[first]
            first = r[POINTER] * q[HELD_BY_STOP] + sample * q[HELD_BY_SAMPLE]
            for j in range(q[CHANNELS]):
                v[W_A + j * LANES] = held[first + j]
        if stale and not renew(w, q, parameters, field):
            return FAILED
    return 0
"""
