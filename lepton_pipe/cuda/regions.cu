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

typedef $label Label;
typedef $value Value;
typedef unsigned long long Wide;
#define VALUES $values              // 0: none, 1: integers, 2: floats
#define AXES $axes
#define VALUE_DIGITS $value_digits  // both even
#define SQUARE_DIGITS $square_digits
#define SLOTS $slots

#define PROBES 8
#define TILE 64  // voxels along y and x
#define IN_ROW (TILE / EACH)

// Of a slot in shared memory.
enum { COUNT, SUM_Y, SUM_X, LOW_Y, HIGH_Y, LOW_X, HIGH_X, DIGITS };
#define STRIDE ((DIGITS + VALUE_DIGITS + SQUARE_DIGITS) | 1)

// Of a row in memory.
enum {
    ROW_COUNT, ROW_SUM, ROW_LOW = ROW_SUM + AXES, ROW_HIGH = ROW_LOW + AXES,
    ROW_ODD = ROW_HIGH + AXES, ROW_LEAST, ROW_MOST, ROW_DIGITS,
    ROW = VALUES ? ROW_DIGITS + (VALUE_DIGITS + SQUARE_DIGITS) / 2 : ROW_ODD
};
enum { IS_NAN = 1, IS_INF = 2, IS_MINUS_INF = 4 };

static __device__ __forceinline__ Wide mixed(Wide label) {
    return label * 0x9E3779B97F4A7C15ull;  // 2**64 / golden ratio
}

// Extremes only ever go one way: who reads an old one merely does what was not needed.
template <class T> static __device__ __forceinline__ void lower(T* least, T value) {
    if (value < *(volatile T*)least) atomicMin(least, value);
}
template <class T> static __device__ __forceinline__ void raise_to(T* most, T value) {
    if (value > *(volatile T*)most) atomicMax(most, value);
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

#if VALUES == 2
#define WIDE_FLOATS (sizeof(Value) == 8)
#define MANTISSA (WIDE_FLOATS ? 52 : 23)
#define INFINITE (WIDE_FLOATS ? 2047 : 255)

static __device__ __forceinline__ Wide bits_of(float v) { return __float_as_uint(v); }
static __device__ __forceinline__ Wide bits_of(double v) { return (Wide)__double_as_longlong(v); }
static __device__ __forceinline__ int exponent_of(Wide bits) {
    return (int)(bits >> MANTISSA) & INFINITE;
}
static __device__ __forceinline__ Wide mantissa_of(Wide bits, int exponent) {
    const Wide hidden = 1ull << MANTISSA;
    return (bits & (hidden - 1)) | (exponent ? hidden : 0);
}
#endif

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

// -- what is added up -------------------------------------------------------------------------------

// Where the voxels of an object go: its slot, or its row where there is none left.
struct Object { unsigned int* cells; Wide* ends; long long* row; };

static __device__ __forceinline__ void add(long long* sum, long long value) {
    atomicAdd((Wide*)sum, (Wide)value);
}

static __device__ __forceinline__ void add_digit(const Object& to, int k, int digit) {
    if (digit == 0) return;
    if (to.cells) atomicAdd(&to.cells[DIGITS + k], (unsigned int)digit);
    else add(&to.row[ROW_DIGITS + k / 2], (long long)digit * (k % 2 ? 65536 : 1));
}

static __device__ __forceinline__ void add_ends(const Object& to, Wide least, Wide most) {
    if (least > most) return;
    lower(to.cells ? &to.ends[0] : (Wide*)&to.row[ROW_LEAST], least);
    raise_to(to.cells ? &to.ends[1] : (Wide*)&to.row[ROW_MOST], most);
}

// Add to a row what is known of `n` voxels between two corners, (t, c, z, y, x) each.
static __device__ __forceinline__ void add_places(
    long long* row, int n, const int* low, const int* high, long long sum_y, long long sum_x)
{
    add(&row[ROW_COUNT], n);
    #pragma unroll
    for (int a = 0; a < AXES; a++) {
        const int axis = 5 - AXES + a;
        add(&row[ROW_SUM + a], axis == 4 ? sum_x : axis == 3 ? sum_y : (long long)low[axis] * n);
        lower(&row[ROW_LOW + a], (long long)low[axis]);
        raise_to(&row[ROW_HIGH + a], (long long)high[axis]);
    }
}

#if VALUES == 1
// The order of unsigned numbers is that of the values.
static __device__ __forceinline__ Wide key_of(Value value) {
    return (Value)-1 < 0 ? (Wide)(long long)value ^ (1ull << 63) : (Wide)value;
}

struct Sums {
    int value[VALUE_DIGITS], square[SQUARE_DIGITS];
    Wide least = ~0ull, most = 0;

    __device__ __forceinline__ Sums() {
        #pragma unroll
        for (int k = 0; k < VALUE_DIGITS; k++) value[k] = 0;
        #pragma unroll
        for (int k = 0; k < SQUARE_DIGITS; k++) square[k] = 0;
    }

    __device__ __forceinline__ void take(const Object&, Value v, int) {
        const bool negative = v < 0;
        const Wide size = negative ? 0 - (Wide)v : (Wide)v, key = key_of(v);
        #pragma unroll
        for (int k = 0; k < VALUE_DIGITS; k++) {
            const int digit = (int)(size >> (16 * k) & 0xFFFF);
            value[k] += negative ? -digit : digit;
        }
        const Wide part[2] = {size * size, sizeof(Value) == 8 ? __umul64hi(size, size) : 0};
        #pragma unroll
        for (int k = 0; k < SQUARE_DIGITS; k++)
            square[k] += (int)(part[k / 4] >> (16 * (k % 4)) & 0xFFFF);
        least = key < least ? key : least;
        most = key > most ? key : most;
    }

    __device__ __forceinline__ void give(const Object& to) const {
        #pragma unroll
        for (int k = 0; k < VALUE_DIGITS; k++) add_digit(to, k, value[k]);
        #pragma unroll
        for (int k = 0; k < SQUARE_DIGITS; k++) add_digit(to, VALUE_DIGITS + k, square[k]);
        add_ends(to, least, most);
    }
};
#elif VALUES == 2
static __device__ __forceinline__ Wide key_of(Wide bits) {
    const Wide sign = 1ull << (8 * sizeof(Value) - 1);
    return bits & sign ? ~bits & (sign - 1) : bits | sign;
}

// Add a number of up to 48 bits, shifted to the left.
static __device__ __forceinline__ void add_part(
    const Object& to, int first, int shift, Wide number, bool negative)
{
    Wide rest = number << (shift % 16);
    for (int k = first + shift / 16; rest; k++, rest >>= 16) {
        const int digit = (int)(rest & 0xFFFF);
        add_digit(to, k, negative ? -digit : digit);
    }
}

static __device__ __forceinline__ void add_shifted(
    const Object& to, int first, int shift, Wide number, bool negative)
{
#if $wide_floats
    add_part(to, first, shift, number & 0xFFFFFFFFull, negative);
    add_part(to, first, shift + 32, number >> 32, negative);
#else
    add_part(to, first, shift, number, negative);
#endif
}

struct Sums {
    Wide least = ~0ull, most = 0;
    int odd = 0;

    __device__ __forceinline__ void take(const Object& to, Value v, int base) {
        const Wide bits = bits_of(v), key = key_of(bits);
        const bool negative = bits >> (8 * sizeof(Value) - 1);
        const int exponent = exponent_of(bits);
        if (exponent == INFINITE && v != v) {
            odd |= IS_NAN;
            return;
        }
        least = key < least ? key : least;
        most = key > most ? key : most;
        if (exponent == INFINITE) {
            odd |= negative ? IS_MINUS_INF : IS_INF;
            return;
        }
        const Wide m = mantissa_of(bits, exponent);
        if (m == 0) return;
        const int shift = (exponent > 1 ? exponent : 1) - base;
        const Wide low = m & ((1ull << 26) - 1);  // of a float32 all of it
        add_shifted(to, 0, shift, low, negative);
        add_shifted(to, VALUE_DIGITS, 2 * shift, low * low, false);
#if $wide_floats
        const Wide high = m >> 26;
        add_shifted(to, 0, shift + 26, high, negative);
        add_shifted(to, VALUE_DIGITS, 2 * shift + 27, low * high, false);
        add_shifted(to, VALUE_DIGITS, 2 * shift + 52, high * high, false);
#endif
    }

    __device__ __forceinline__ void give(const Object& to) const {
        if (odd) atomicOr((Wide*)&to.row[ROW_ODD], (Wide)odd);
        add_ends(to, least, most);
    }
};
#endif

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
