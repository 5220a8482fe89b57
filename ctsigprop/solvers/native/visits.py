"""The text of a driver: a turn of all lanes, and what is done for one of them after it."""

from __future__ import annotations

__all__ = ["ADVANCE", "CALLS", "DRIVE", "VISITS"]

CALLS = """
PLAIN = {**INLINE, "forceinline": False}


REALS, WHOLES = types.CPointer(types.float64), types.CPointer(types.int64)


@intrinsic
def evaluate(typing, address, w, parameters, node, out, first, last):
    return jump(REALS, REALS, types.float64, types.int64, types.int64, types.int64)


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


@njit(**INLINE)
def larger(a, b):
    return a if a > b else b
"""

ADVANCE = """
def advance(w, q, parameters, atol, field):
    direction, rtol = w[W_DIRECTION], w[W_RTOL]
    for k in range(LANES):
        t = w[W_T + k]
        h = w[W_H + k]
        remaining = w[W_TARGET + k] - t
        landing = h * STRETCH >= abs(remaining)
        w[W_SIZE + k] = remaining if landing else h * direction
        w[W_LANDING + k] = 1.0 if landing else 0.0
        w[W_BEFORE + k] = t
        w[W_LARGEST + k] = 0.0
        w[W_TOTAL + k] = 0.0
    # stages
    for part in range(q[PARTS]):
        first = FIRST_PART + 3 * part
        start, stop, matrix = q[first], q[first + 1], q[first + 2]
        share = 1.0 / (stop - start)
        for k in range(LANES):
            w[W_MEAN + k] = 0.0
        if matrix:
            for k in range(LANES):
                w[W_WHOLE + k] = 0.0
                w[W_OTHER + k] = 0.0
            for c in range(start, stop):
                for k in range(LANES):
                    i = c * LANES + k
                    y, z = w[W_Y + i], w[W_Z + i]
                    w[W_WHOLE + k] += y * y
                    w[W_OTHER + k] += z * z
            for k in range(LANES):
                w[W_WHOLE + k] = sqrt(larger(w[W_WHOLE + k], w[W_OTHER + k]) * share)
        for c in range(start, stop):
            for k in range(LANES):
                i = c * LANES + k
                size = larger(abs(w[W_Y + i]), abs(w[W_Z + i]))
                size = w[W_WHOLE + k] if matrix else size
                e = w[W_SIZE + k] * (ERROR) / (size * rtol + atol[c])
                w[W_MEAN + k] += e * e
        for k in range(LANES):
            mean = w[W_MEAN + k] * share
            w[W_TOTAL + k] += mean
            w[W_LARGEST + k] = larger(w[W_LARGEST + k], mean)
    for k in range(LANES):
        # control
    for c in range(q[SIZE]):
        for k in range(LANES):
            i = c * LANES + k
            good = w[W_ACCEPTED + k] == 1.0
            y = w[W_Y + i]
            f = w[W_F + i]
            z = w[W_Z + i]
            g = w[W_LAST + i]
            w[W_O + i] = y
            w[W_K + i] = f
            w[W_Y + i] = z if good else y
            w[W_F + i] = g if good else f
    attend = 0
    for k in range(LANES):
        attend |= bits(w[W_ATTEND + k])
    return attend
"""

VISITS = '''
@njit(**PLAIN)
def norm(w, q, atol, k, values):
    """Measure numbers of a lane by its state, as `Control.norm` does."""
    largest = 0.0
    for part in range(q[PARTS]):
        first = FIRST_PART + 3 * part
        start, stop, matrix = q[first], q[first + 1], q[first + 2]
        whole, mean = 0.0, 0.0
        for c in range(start, stop):
            y = w[W_Y + c * LANES + k]
            whole += y * y
        whole = sqrt(whole / (stop - start))
        for c in range(start, stop):
            size = whole if matrix else abs(w[W_Y + c * LANES + k])
            ratio = w[values + c * LANES + k] / (size * w[W_RTOL] + atol[c])
            mean += ratio * ratio
        largest = larger(largest, mean / (stop - start))
    return sqrt(largest)


@njit(**PLAIN)
def slope(w, q, parameters, field, k, size, out):
    """Take a lane's derivative a step of `size` along its last one; tell whether it is finite."""
    for c in range(q[SIZE]):
        i = c * LANES + k
        w[W_Z + i] = w[W_Y + i] + size * w[W_F + i] if size != 0.0 else w[W_Y + i]
    w[W_SIZE + k] = size
    evaluate(field, w, parameters, 1.0, out, k, k + 1)
    total = 0.0
    for c in range(q[SIZE]):
        total += abs(w[out + c * LANES + k])
    return total < math.inf


@njit(**PLAIN)
def record(w, q, times, out, k):
    """Write the rows that lie in the lane's last step."""
    sample, row, rows, size = q[SAMPLE + k], q[ROW + k], q[ROWS], q[SIZE]
    reached, direction = w[W_T + k], w[W_DIRECTION]
    first = sample * q[ROWS_APART]
    while row < rows and times[first + row] * direction <= reached * direction:
        t = times[first + row]
        place = (row * q[SAMPLES] + sample) * size
        if t == reached and row == rows - 1:
            for c in range(size):
                out[place + c] = w[W_Y + c * LANES + k]
        else:
            theta = (t - w[W_BEFORE + k]) / w[W_SIZE + k]
            # inside
        row += 1
    q[ROW + k] = row
    w[W_DUE + k] = times[first + row] * direction if row < rows else math.inf
    return row
'''

DRIVE = """
def drive(w, q, states, times, stops, low, high, held, parameters, atol, out, done, field, turn):
    for _ in range(q[TURNS]):
        if q[USED] == 0:
            return FINISHED
        q[TURN] += 1
        attend = advance(turn, w, q, parameters, atol, field)
        look = q[TURN] % EVERY == 0
        if attend == 0 and not look:
            continue
        for k in range(LANES):
            if q[IN_USE + k] == 0:
                continue
            sample = q[SAMPLE + k]
            tried = q[TURN] - q[BEGAN + k]
            if look and tried > q[MAX_STEPS]:
                return FAILED
            if w[W_ATTEND + k] == 0.0:
                continue
            over = sample < 0
            if not over:
                if w[W_ACCEPTED + k] == 0.0:
                    if w[W_MISSED + k] > RETREATS or w[W_H + k] < w[W_LEAST + k]:
                        return FAILED
                    continue
                done[sample] = record(w, q, times, out, k)
                if w[W_T + k] != w[W_TARGET + k]:
                    if w[W_H + k] < w[W_LEAST + k]:
                        return FAILED
                    continue
                over = q[ROW + k] == q[ROWS]
                if over:  # what the orbit took
                    if tried > q[MAX_STEPS]:
                        return FAILED
                    rejected = int(w[W_REJECTED + k])
                    q[STEPS] = larger(q[STEPS], tried - rejected)
                    q[REJECTIONS] = larger(q[REJECTIONS], rejected)
                    calls = tried * (STAGES - 1) + q[EXTRA + k]
                    q[EVALUATIONS] = larger(q[EVALUATIONS], calls)
            if over and q[NEXT] >= q[SAMPLES]:
                q[IN_USE + k] = 0
                q[USED] -= 1
                w[W_H + k] = 0.0
                w[W_TARGET + k] = w[W_T + k]
                continue
            if over:  # the next orbit
                sample = q[NEXT]
                q[NEXT] += 1
                q[SAMPLE + k], q[ROW + k], q[POINTER + k] = sample, 1, 0
                q[BEGAN + k], q[EXTRA + k] = q[TURN], 1
                for c in range(q[SIZE]):
                    w[W_Y + c * LANES + k] = states[sample * q[SIZE] + c]
                first = sample * q[ROWS_APART]
                start, end = times[first], times[first + q[ROWS] - 1]
                w[W_T + k] = start
                w[W_RECENT + k], w[W_RETRIED + k] = RECENT, 0.0
                w[W_REJECTED + k], w[W_MISSED + k] = 0.0, 0.0
                w[W_DUE + k] = times[first + 1] * w[W_DIRECTION]
                furthest = larger(abs(start), abs(end))
                w[W_LEAST + k] = ROUNDINGS * (number(bits(furthest) + 1) - furthest)
            else:
                q[POINTER + k] += 1
                q[EXTRA + k] += 1
            place = sample * q[STOPS_APART] + q[POINTER + k]
            w[W_TARGET + k] = stops[place]
            w[W_LOW + k] = low[place]
            w[W_HIGH + k] = high[place]
            place = q[POINTER + k] * q[HELD_BY_STOP] + sample * q[HELD_BY_SAMPLE]
            for j in range(q[CHANNELS]):
                w[W_A + j * LANES + k] = held[place + j]
            if not slope(w, q, parameters, field, k, 0.0, W_F):
                return FAILED
            if not over:
                continue
            if w[W_FIRST_STEP] > 0.0:
                w[W_H + k] = w[W_FIRST_STEP]
                continue
            # HNW I, II.4
            d0, d1 = norm(w, q, atol, k, W_Y), norm(w, q, atol, k, W_F)
            h = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
            reach = abs(w[W_TARGET + k] - w[W_T + k])
            h = reach if reach < h else h
            w[W_H + k] = h
            q[EXTRA + k] += 1
            if not slope(w, q, parameters, field, k, h * w[W_DIRECTION], W_K):
                continue
            for c in range(q[SIZE]):
                w[W_K + c * LANES + k] -= w[W_F + c * LANES + k]
            steepest = larger(d1, norm(w, q, atol, k, W_K) / h)
            if steepest <= 1e-15:
                chosen = larger(h * 1e-3, 1e-6)
            else:
                chosen = math.pow(0.01 / steepest, EXPONENT)
            chosen = 100.0 * h if 100.0 * h < chosen else chosen
            if 0.0 < chosen < math.inf:
                w[W_H + k] = chosen
    return 0
"""
