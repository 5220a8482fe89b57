"""What is done for one lane at a time, and the loop over turns: the same text for every system."""

from __future__ import annotations

__all__ = ["KERNEL", "VISITS"]

VISITS = '''
@njit(**PLAIN)
def aim(w, q, stops, low, high, held, k):
    """Go on to the stop that the lane's pointer is at."""
    sample, pointer = q[SAMPLE + k], q[POINTER + k]
    place = sample * q[STOPS_APART] + pointer
    w[W_TARGET + k] = stops[place]
    w[W_LOW + k] = low[place]
    w[W_HIGH + k] = high[place]
    place = pointer * q[HELD_BY_STOP] + sample * q[HELD_BY_SAMPLE]
    for j in range(CHANNELS):
        w[W_A + j * LANES + k] = held[place + j]


@njit(**PLAIN)
def slope_here(w, parameters, k):
    """Take the derivative that the next step begins with; tell whether it is finite."""
    for c in range(SIZE):
        w[W_O + c * LANES + k] = w[W_Y + c * LANES + k]
    return slope(w, parameters, k, w[W_T + k], W_F)


@njit(**PLAIN)
def begin(w, q, parameters, atol, k):
    """Choose the first step (HNW I, II.4); tell whether the derivative is finite."""
    q[EXTRA + k] = 1
    if not slope_here(w, parameters, k):
        return False
    if w[W_FIRST_STEP] > 0.0:
        w[W_H + k] = w[W_FIRST_STEP]
        return True
    direction, rtol = w[W_DIRECTION], w[W_RTOL]
    d0, d1 = norm(w, atol, rtol, k, W_Y), norm(w, atol, rtol, k, W_F)
    h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
    h0 = min(h0, abs(w[W_TARGET + k] - w[W_T + k]))
    for c in range(SIZE):
        place = c * LANES + k
        w[W_O + place] = w[W_Y + place] + h0 * direction * w[W_F + place]
    w[W_H + k] = h0
    q[EXTRA + k] = 2
    if not slope(w, parameters, k, w[W_T + k] + h0 * direction, W_K):
        return True
    for c in range(SIZE):
        w[W_K + c * LANES + k] -= w[W_F + c * LANES + k]
    bend = norm(w, atol, rtol, k, W_K) / h0
    steepest = d1 if bend < d1 else bend
    h1 = max(h0 * 1e-3, 1e-6) if steepest <= 1e-15 else math.pow(0.01 / steepest, EXPONENT)
    h = 100.0 * h0 if 100.0 * h0 < h1 else h1
    w[W_H + k] = h if 0.0 < h < math.inf else h0
    return True


@njit(**PLAIN)
def spacing(t):
    size = abs(t)
    return number(bits(size) + 1) - size


@njit(**PLAIN)
def occupy(w, q, states, times, stops, low, high, held, parameters, atol, k):
    """Give the lane the next orbit, if there is one; tell whether it could begin."""
    sample = q[NEXT]
    if sample >= q[SAMPLES]:
        q[IN_USE + k] = 0
        q[USED] -= 1
        w[W_H + k] = 0.0
        w[W_TARGET + k] = w[W_T + k]
        return True
    q[NEXT] += 1
    q[SAMPLE + k], q[ROW + k], q[POINTER + k] = sample, 1, 0
    q[BEGAN + k], q[IN_USE + k] = q[TURN], 1
    for c in range(SIZE):
        w[W_Y + c * LANES + k] = states[sample * SIZE + c]
    first = sample * q[ROWS_APART]
    start, end = times[first], times[first + q[ROWS] - 1]
    w[W_T + k] = start
    w[W_RECENT + k], w[W_RETRIED + k] = RECENT, 0.0
    w[W_REJECTED + k], w[W_MISSED + k] = 0.0, 0.0
    w[W_DUE + k] = times[first + 1] * w[W_DIRECTION]
    w[W_LEAST + k] = ROUNDINGS * spacing(max(abs(start), abs(end)))
    aim(w, q, stops, low, high, held, k)
    return begin(w, q, parameters, atol, k)


@njit(**PLAIN)
def record(w, q, times, out, done, k):
    """Write the rows that lie in the lane's last step."""
    sample, row, rows = q[SAMPLE + k], q[ROW + k], q[ROWS]
    reached, direction = w[W_T + k], w[W_DIRECTION]
    first = sample * q[ROWS_APART]
    while row < rows and times[first + row] * direction <= reached * direction:
        t = times[first + row]
        place = (row * q[SAMPLES] + sample) * SIZE
        if t == reached and row == rows - 1:
            for c in range(SIZE):
                out[place + c] = w[W_Y + c * LANES + k]
        else:
            inside(w, out, place, k, (t - w[W_BEFORE + k]) / w[W_SIZE + k])
        row += 1
    q[ROW + k] = row
    done[sample] = row
    w[W_DUE + k] = times[first + row] * direction if row < rows else math.inf


@njit(**PLAIN)
def finish(w, q, k):
    """Count what the lane's orbit took; tell whether it was within its steps."""
    tried = q[TURN] - q[BEGAN + k]
    rejected = int(w[W_REJECTED + k])
    q[STEPS] = max(q[STEPS], tried - rejected)
    q[REJECTIONS] = max(q[REJECTIONS], rejected)
    q[EVALUATIONS] = max(q[EVALUATIONS], tried * (STAGES - 1) + q[EXTRA + k])
    return tried <= q[MAX_STEPS]


@njit(**PLAIN)
def visit(w, q, states, times, stops, low, high, held, parameters, atol, out, done, k):
    """See to a lane after a turn; tell whether all is well."""
    over = q[SAMPLE + k] < 0
    if not over:
        if w[W_ACCEPTED + k] == 0.0:
            return w[W_MISSED + k] <= RETREATS and w[W_H + k] >= w[W_LEAST + k]
        record(w, q, times, out, done, k)
        if w[W_T + k] != w[W_TARGET + k]:
            return w[W_H + k] >= w[W_LEAST + k]
        over = q[ROW + k] == q[ROWS]
        if over and not finish(w, q, k):
            return False
    if over:
        return occupy(w, q, states, times, stops, low, high, held, parameters, atol, k)
    q[POINTER + k] += 1
    q[EXTRA + k] += 1
    aim(w, q, stops, low, high, held, k)
    return slope_here(w, parameters, k)
'''

KERNEL = """
@njit(**PLAIN)
def advance(w, parameters, atol):
    # parameters
    direction, rtol = w[W_DIRECTION], w[W_RTOL]
    attend = 0
    # step
    for k in range(LANES):
        attend |= bits(w[W_ATTEND + k])
    return attend


def kernel(w, q, states, times, stops, low, high, held, parameters, atol, out, done):
    for _ in range(q[TURNS]):
        if q[USED] == 0:
            return FINISHED
        q[TURN] += 1
        attend = advance(w, parameters, atol)
        look = q[TURN] % EVERY == 0
        if attend == 0 and not look:
            continue
        for k in range(LANES):
            if q[IN_USE + k] == 0:
                continue
            if look and q[TURN] - q[BEGAN + k] > q[MAX_STEPS]:
                return FAILED
            if w[W_ATTEND + k] != 0.0 and not visit(
                    w, q, states, times, stops, low, high, held, parameters, atol, out, done, k):
                return FAILED
    return 0
"""
