// Sums and extents of labelled objects: of their places, and of the values in them.
//
// `survey` puts each label into a table once, and finds the exponents of floats. `measure` adds up. A
// block of threads takes a tile of a plane; each thread adds up runs of one label in registers, those
// are added to the object's slot in shared memory, and a slot goes to the object's row in memory when
// the tile is done. So few threads add to one address, even where one object fills the image.
//
// All sums are integers, so that their order is of no account. Those of values and of their squares
// are kept in digits of 16 bits, which are not carried: in shared memory each in a word of 32 bits, in
// memory two to a word of 64. A float is its mantissa, that many bits to the left as its exponent is
// above the smallest in the image.

#define PROBES 8
#define TILE 64  // voxels along y and x
#define IN_ROW (TILE / EACH)

static __device__ __forceinline__ Wide mixed(Wide label) {
    return label * 0x9E3779B97F4A7C15ull;  // 2**64 / golden ratio
}

// Return the slot of a label among `names`; -1 where there is no room.
static __device__ __forceinline__ int slot_of(Wide label, Wide* names) {
    int slot = (int)(mixed(label) >> 40) & (SLOTS - 1);
    for (int probe = 0; probe < PROBES; probe++, slot = (slot + 1) & (SLOTS - 1)) {
        Wide held = ((volatile Wide*)names)[slot];
        if (held == 0) held = atomicCAS(&names[slot], 0ull, label);
        if (held == 0 || held == label) return slot;
    }
    return -1;
}

static __device__ __forceinline__ Wide label_of(Label label) {
    return label > 0 ? (Wide)label : 0;
}

// -- which labels there are -------------------------------------------------------------------------

// Of `state`.
enum { FOUND, LEAST_EXPONENT, MOST_EXPONENT };

// Put a label into a table of 2**bits, no more than half of which are used in the end.
static __device__ void note(Wide label, Wide* table, int bits, int* state) {
    const Wide size = 1ull << bits;
    Wide at = mixed(label) >> (64 - bits);
    for (Wide probe = 0; probe < size; probe++, at = (at + 1) & (size - 1)) {
        Wide held = ((volatile Wide*)table)[at];
        if (held == 0) {
            if (((volatile int*)state)[FOUND] > (int)(size / 2)) return;
            held = atomicCAS(&table[at], 0ull, label);
            if (held == 0) atomicAdd(&state[FOUND], 1);
        }
        if (held == 0 || held == label) return;
    }
}

extern "C" __global__ void survey(
    const Label* __restrict__ labels, const Value* __restrict__ values, Wide* table, int bits,
    int* state, unsigned int pieces, EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    __shared__ Wide names[SLOTS];
    __shared__ int least, most;
    for (int slot = threadIdx.x; slot < SLOTS; slot += THREADS) names[slot] = 0;
    if (threadIdx.x == 0) { least = 1 << 30; most = 0; }
    __syncthreads();
    const Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    if (p.n) {
        Label here[EACH];
        load(labels + p.at, p.n, here);
        Wide last = 0;
        #pragma unroll
        for (int k = 0; k < EACH; k++) {
            const Wide label = k < p.n ? label_of(here[k]) : 0;
            if (label && label != last && slot_of(label, names) < 0) note(label, table, bits, state);
            last = label;
#if VALUES == 2
            if (label) {
                const Wide bits_here = bits_of(values[p.at + k]);
                const int exponent = exponent_of(bits_here);
                if (exponent != INFINITE && mantissa_of(bits_here, exponent)) {
                    lower(&least, exponent > 1 ? exponent : 1);
                    raise_to(&most, exponent > 1 ? exponent : 1);
                }
            }
#endif
        }
    }
    __syncthreads();
    for (int slot = threadIdx.x; slot < SLOTS; slot += THREADS)
        if (names[slot]) note(names[slot], table, bits, state);
    if (threadIdx.x == 0) {
        lower(&state[LEAST_EXPONENT], least);
        raise_to(&state[MOST_EXPONENT], most);
    }
}

// -- adding up --------------------------------------------------------------------------------------

// Return the row of a label that is in the table.
static __device__ long long* row_of(
    Wide label, const Wide* table, const int* numbers, int bits, long long* rows)
{
    Wide at = mixed(label) >> (64 - bits);
    while (table[at] != label) at = (at + 1) & ((1ull << bits) - 1);
    return rows + (long long)numbers[at] * ROW;
}

extern "C" __global__ void measure(
    const Label* __restrict__ labels, const Value* __restrict__ values,
    const Wide* __restrict__ table, const int* __restrict__ numbers, int bits, long long* rows,
    int channels, int depth, int height, int width, int base)
{
    __shared__ Wide names[SLOTS];
    __shared__ unsigned int cells[SLOTS * STRIDE];
#if VALUES
    __shared__ Wide ends[2 * SLOTS];
#else
    Wide* const ends = nullptr;
#endif
    for (int slot = threadIdx.x; slot < SLOTS; slot += THREADS) {
        names[slot] = 0;
        for (int k = 0; k < STRIDE; k++)
            cells[slot * STRIDE + k] = k == LOW_Y || k == LOW_X ? TILE : 0;
#if VALUES
        ends[2 * slot] = ~0ull;
        ends[2 * slot + 1] = 0;
#endif
    }
    __syncthreads();
    const unsigned int across = ((unsigned int)width + TILE - 1) / TILE;
    const unsigned int down = ((unsigned int)height + TILE - 1) / TILE;
    const unsigned int plane = blockIdx.x / across / down;
    const int tile_x = (int)(blockIdx.x % across) * TILE;
    const int tile_y = (int)(blockIdx.x / across % down) * TILE;
    const int z = (int)(plane % depth), c = (int)(plane / depth % channels);
    const int t = (int)(plane / depth / channels);
    const int x = threadIdx.x % IN_ROW * EACH;
    const int n = width - tile_x - x < EACH ? width - tile_x - x : EACH;

    for (int y = threadIdx.x / IN_ROW; y < TILE && tile_y + y < height; y += THREADS / IN_ROW) {
        if (n <= 0) break;
        const long long at = ((long long)plane * height + tile_y + y) * width + tile_x + x;
        Label here[EACH];
        load(labels + at, n, here);
        unsigned int begins = 0, ends_at = 1u << n;
        Wide last = 0;
        #pragma unroll
        for (int k = 0; k < EACH; k++) {
            const Wide label = k < n ? label_of(here[k]) : 0;
            if (label != last) {
                ends_at |= 1u << k;
                if (label) begins |= 1u << k;
            }
            last = label;
        }
        for (; begins; begins &= begins - 1) {
            const int first = __ffs((int)begins) - 1;
            const int stop = first + __ffs((int)(ends_at >> (first + 1)));
            const Wide label = label_of(labels[at + first]);  // by now in the nearest cache
            const int slot = slot_of(label, names);
            Object to = {nullptr, nullptr, nullptr};
            if (slot >= 0) to = {&cells[slot * STRIDE], &ends[2 * slot], nullptr};
            else to.row = row_of(label, table, numbers, bits, rows);
#if VALUES
            Sums sums;
            for (int k = first; k < stop; k++) sums.take(to, values[at + k], base);
#if VALUES == 2
            if (sums.odd && !to.row) to.row = row_of(label, table, numbers, bits, rows);
#endif
            sums.give(to);
#endif
            const int many = stop - first, sum_x = (2 * (x + first) + many - 1) * many / 2;
            if (slot < 0) {
                const int low[5] = {t, c, z, tile_y + y, tile_x + x + first};
                const int high[5] = {t, c, z, tile_y + y, tile_x + x + stop - 1};
                add_places(to.row, many, low, high, (long long)low[3] * many,
                           (long long)tile_x * many + sum_x);
                continue;
            }
            atomicAdd(&to.cells[COUNT], (unsigned int)many);
            atomicAdd(&to.cells[SUM_Y], (unsigned int)(y * many));
            atomicAdd(&to.cells[SUM_X], (unsigned int)sum_x);
            lower(&to.cells[LOW_Y], (unsigned int)y);
            raise_to(&to.cells[HIGH_Y], (unsigned int)y);
            lower(&to.cells[LOW_X], (unsigned int)(x + first));
            raise_to(&to.cells[HIGH_X], (unsigned int)(x + stop - 1));
        }
    }
    __syncthreads();

    for (int slot = threadIdx.x; slot < SLOTS; slot += THREADS) {
        if (names[slot] == 0) continue;
        const unsigned int* const cell = &cells[slot * STRIDE];
        const int many = (int)cell[COUNT];
        const int low[5] = {t, c, z, tile_y + (int)cell[LOW_Y], tile_x + (int)cell[LOW_X]};
        const int high[5] = {t, c, z, tile_y + (int)cell[HIGH_Y], tile_x + (int)cell[HIGH_X]};
        long long* const row = row_of(names[slot], table, numbers, bits, rows);
        add_places(row, many, low, high, (long long)tile_y * many + cell[SUM_Y],
                   (long long)tile_x * many + cell[SUM_X]);
#if VALUES
        #pragma unroll 4
        for (int k = 0; k < VALUE_DIGITS + SQUARE_DIGITS; k += 2) {
            const long long sum = (int)cell[DIGITS + k] + (long long)(int)cell[DIGITS + k + 1] * 65536;
            if (sum) add(&row[ROW_DIGITS + k / 2], sum);
        }
        add_ends({nullptr, nullptr, row}, ends[2 * slot], ends[2 * slot + 1]);
#endif
    }
}
