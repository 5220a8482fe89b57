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


@intrinsic
def place(typing, memory, k):
    def lower(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])
    return memory(memory, types.int64), lower


@njit(**INLINE)
def larger(a, b):
    return a if a > b else b
"""

ADVANCE = """
def advance(w, q, parameters, atol, field):
    direction, rtol = w[W_DIRECTION], w[W_RTOL]
    for k in range(LANES):
        v = place(w, k)
        t = v[W_T]
        h = v[W_H]
        remaining = v[W_TARGET] - t
        landing = h * STRETCH >= abs(remaining)
        v[W_SIZE] = remaining if landing else h * direction
        v[W_LANDING] = 1.0 if landing else 0.0
        v[W_BEFORE] = t
        v[W_LARGEST] = 0.0
        v[W_MEAN] = 0.0
    # stages
    for part in range(q[PARTS]):
        first = FIRST_PART + 3 * part
        start, stop, matrix = q[first], q[first + 1], q[first + 2]
        share = 1.0 / (stop - start)
        if matrix:
            for k in range(LANES):
                v = place(w, k)
                v[W_WHOLE] = 0.0
                v[W_OTHER] = 0.0
            for c in range(start, stop):
                for k in range(LANES):
                    v = place(w, k)
                    x = place(w, c * LANES + k)
                    y, z = x[W_Y], x[W_Z]
                    v[W_WHOLE] += y * y
                    v[W_OTHER] += z * z
            for k in range(LANES):
                v = place(w, k)
                v[W_WHOLE] = sqrt(larger(v[W_WHOLE], v[W_OTHER]) * share)
        for c in range(start, stop):
            for k in range(LANES):
                v = place(w, k)
                x = place(w, c * LANES + k)
                size = larger(abs(x[W_Y]), abs(x[W_Z]))
                size = v[W_WHOLE] if matrix else size
                e = v[W_SIZE] * (ERROR) / (size * rtol + atol[c])
                v[W_MEAN] += e * e
        for k in range(LANES):
            v = place(w, k)
            v[W_LARGEST] = max(v[W_LARGEST], min(math.inf, v[W_MEAN] * share))
            v[W_MEAN] = 0.0
    attend = 0
    for k in range(LANES):
        v = place(w, k)
        # control
    if attend:
        for c in range(q[SIZE]):
            for k in range(LANES):
                x = place(w, c * LANES + k)
                x[W_O] = x[W_Y]
                x[W_K] = x[W_F]
    for c in range(q[SIZE]):
        for k in range(LANES):
            v = place(w, k)
            x = place(w, c * LANES + k)
            good = v[W_FAILED] == 0.0
            y, f, z, g = x[W_Y], x[W_F], x[W_Z], x[W_LAST]
            x[W_Y] = z if good else y
            x[W_F] = g if good else f
    return attend
"""

VISITS = '''
@njit(**PLAIN)
def norm(w, q, atol, k, values):
    """Measure numbers of a lane by its state, as `Control.norm` does."""
    v, largest = place(w, k), 0.0
    for part in range(q[PARTS]):
        first = FIRST_PART + 3 * part
        start, stop, matrix = q[first], q[first + 1], q[first + 2]
        whole, mean = 0.0, 0.0
        for c in range(start, stop):
            y = v[W_Y + c * LANES]
            whole += y * y
        whole = sqrt(whole / (stop - start))
        for c in range(start, stop):
            size = whole if matrix else abs(v[W_Y + c * LANES])
            ratio = v[values + c * LANES] / (size * w[W_RTOL] + atol[c])
            mean += ratio * ratio
        largest = larger(largest, mean / (stop - start))
    return sqrt(largest)


@njit(**PLAIN)
def slope(w, q, parameters, field, k, size, out):
    """Take a lane's derivative a step of `size` along its last one; tell whether it is finite."""
    v = place(w, k)
    for c in range(q[SIZE]):
        x = place(v, c * LANES)
        x[W_Z] = x[W_Y] + size * x[W_F] if size != 0.0 else x[W_Y]
    v[W_SIZE] = size
    evaluate(field, w, parameters, 1.0, out, k, k + 1)
    total = 0.0
    for c in range(q[SIZE]):
        total += abs(v[out + c * LANES])
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
            # inside
        row += 1
    r[ROW] = row
    v[W_DUE] = times[first + row] * direction if row < rows else math.inf
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
                    rejected = int(v[W_REJECTED])
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
                r[BEGAN], r[EXTRA] = q[TURN], 1
                for c in range(q[SIZE]):
                    v[W_Y + c * LANES] = states[sample * q[SIZE] + c]
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
            first = sample * q[STOPS_APART] + r[POINTER]
            v[W_TARGET] = stops[first]
            v[W_LOW] = low[first]
            v[W_HIGH] = high[first]
            first = r[POINTER] * q[HELD_BY_STOP] + sample * q[HELD_BY_SAMPLE]
            for j in range(q[CHANNELS]):
                v[W_A + j * LANES] = held[first + j]
            if not slope(w, q, parameters, field, k, 0.0, W_F):
                return FAILED
            if not over:
                continue
            if w[W_FIRST_STEP] > 0.0:
                v[W_H] = w[W_FIRST_STEP]
                continue
            # HNW I, II.4, from the sizes of y, of f, and of the change of f over a trial step
            h, before, size = 0.0, 0.0, 0.0
            for values in (W_Y, W_F, W_K):
                if values == W_K:
                    h = 1e-6 if before < 1e-5 or size < 1e-5 else 0.01 * before / size
                    reach = abs(v[W_TARGET] - v[W_T])
                    h = reach if reach < h else h
                    v[W_H] = h
                    r[EXTRA] += 1
                    if not slope(w, q, parameters, field, k, h * w[W_DIRECTION], W_K):
                        size = math.inf
                        break
                    for c in range(q[SIZE]):
                        v[W_K + c * LANES] -= v[W_F + c * LANES]
                before, size = size, norm(w, q, atol, k, values)
            steepest = larger(before, size / h)
            chosen = larger(h * 1e-3, 1e-6)
            if not steepest <= 1e-15:
                chosen = math.pow(0.01 / steepest, EXPONENT)
            chosen = 100.0 * h if 100.0 * h < chosen else chosen
            if 0.0 < chosen < math.inf:
                v[W_H] = chosen
    return 0
"""
