// What is added up of an object, in slots in shared memory and rows in memory; see regions.cu.

typedef $label Label;
typedef $value Value;
typedef unsigned long long Wide;
#define VALUES $values              // 0: none, 1: integers, 2: floats
#define AXES $axes
#define VALUE_DIGITS $value_digits  // both even
#define SQUARE_DIGITS $square_digits
#define SLOTS $slots

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

// Extremes only ever go one way: who reads an old one merely does what was not needed.
template <class T> static __device__ __forceinline__ void lower(T* least, T value) {
    if (value < *(volatile T*)least) atomicMin(least, value);
}
template <class T> static __device__ __forceinline__ void raise_to(T* most, T value) {
    if (value > *(volatile T*)most) atomicMax(most, value);
}

static __device__ __forceinline__ void add(long long* sum, long long value) {
    atomicAdd((Wide*)sum, (Wide)value);
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

// Where the voxels of an object go: its slot, or its row where there is none left.
struct Object { unsigned int* cells; Wide* ends; long long* row; };

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

// Digits that a thread adds up in registers.
struct Digits {
    int value[VALUE_DIGITS] = {}, square[SQUARE_DIGITS] = {};

    __device__ __forceinline__ void add(Wide size, bool negative, Wide square_low, Wide square_high) {
        #pragma unroll
        for (int k = 0; k < VALUE_DIGITS; k++) {
            const int digit = (int)(size >> (16 * k) & 0xFFFF);
            value[k] += negative ? -digit : digit;
        }
        #pragma unroll
        for (int k = 0; k < SQUARE_DIGITS; k++)
            square[k] += (int)((k < 4 ? square_low : square_high) >> (16 * (k % 4)) & 0xFFFF);
    }

    __device__ __forceinline__ void give(const Object& to) const {
        #pragma unroll
        for (int k = 0; k < VALUE_DIGITS; k++) add_digit(to, k, value[k]);
        #pragma unroll
        for (int k = 0; k < SQUARE_DIGITS; k++) add_digit(to, VALUE_DIGITS + k, square[k]);
    }
};

#if VALUES == 1
// The order of unsigned numbers is that of the values.
static __device__ __forceinline__ Wide key_of(Value value) {
    return (Value)-1 < 0 ? (Wide)(long long)value ^ (1ull << 63) : (Wide)value;
}

struct Sums {
    Digits digits;
    Wide least = ~0ull, most = 0;

    __device__ __forceinline__ void take(const Object&, Value v, int) {
        const bool negative = v < 0;
        const Wide size = negative ? 0 - (Wide)v : (Wide)v, key = key_of(v);
        digits.add(size, negative, size * size, sizeof(Value) == 8 ? __umul64hi(size, size) : 0);
        least = key < least ? key : least;
        most = key > most ? key : most;
    }

    __device__ __forceinline__ void give(const Object& to) const {
        digits.give(to);
        add_ends(to, least, most);
    }
};
#elif VALUES == 2
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

static __device__ __forceinline__ Wide key_of(Wide bits) {
    const Wide sign = 1ull << (8 * sizeof(Value) - 1);
    return bits & sign ? ~bits & (sign - 1) : bits | sign;
}

// Whether all floats of an image, shifted, fit 64 bits, and their squares 128.
#define NARROW (!$wide_floats && VALUE_DIGITS == 4)

#if !NARROW
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
#endif

struct Sums {
#if NARROW
    Digits digits;
#endif
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
#if NARROW
        const Wide square = m * m;
        const int by = 2 * shift;
        const Wide above = by == 0 ? 0 : by < 64 ? square >> (64 - by) : square << (by - 64);
        digits.add(m << shift, negative, by < 64 ? square << by : 0, above);
#else
        const Wide low = m & ((1ull << 26) - 1);  // of a float32 all of it
        add_shifted(to, 0, shift, low, negative);
        add_shifted(to, VALUE_DIGITS, 2 * shift, low * low, false);
#if $wide_floats
        const Wide high = m >> 26;
        add_shifted(to, 0, shift + 26, high, negative);
        add_shifted(to, VALUE_DIGITS, 2 * shift + 27, low * high, false);
        add_shifted(to, VALUE_DIGITS, 2 * shift + 52, high * high, false);
#endif
#endif
    }

    __device__ __forceinline__ void give(const Object& to) const {
#if NARROW
        digits.give(to);
#endif
        if (odd) atomicOr((Wide*)&to.row[ROW_ODD], (Wide)odd);
        add_ends(to, least, most);
    }
};
#endif
