// The smallest or largest value in runs along one axis: a box is this along each of its axes.
//
// A thread makes EACH neighbouring results. What all their runs have in common is gone through once;
// from there extremes grow outwards, voxel by voxel, as far as each result needs (M. van Herk, 1992;
// J. Gil and M. Werman, 1993):
//
//     run of the first result    a b c D E F
//     in common                        D E F
//     run of the last                  D E F g h i
//
// Lines along the last axis are read into shared memory by neighbouring threads; along others,
// neighbouring threads have neighbouring lines, and each reads what it needs.

#define LENGTH $length
#define LOW $low           // voxels of a run before the one computed
#define EACH $each         // at most LENGTH
#define CONTIGUOUS $contiguous
#define BETTER $better
#define WARPS 8
#define ALONG (WARPS * EACH)
#define REACH (ALONG + LENGTH - 1)
#define PITCH (REACH | 1)  // odd: neighbouring lines lie in different banks

typedef $index Index;      // of a voxel in the whole array

// Gives the results from words number 0 to EACH + LENGTH - 2.
template <class Get> static __device__ __forceinline__ void run(const Get& word, Word* made) {
    Word best = word(EACH - 1);
    #pragma unroll 16
    for (int i = EACH; i < LENGTH; i++) best = BETTER(best, word(i));
    made[EACH - 1] = best;
    #pragma unroll
    for (int j = EACH - 2; j >= 0; j--) made[j] = best = BETTER(best, word(j));
    if (EACH > 1) {
        best = word(LENGTH);
        #pragma unroll
        for (int j = 1; j < EACH; j++) {
            if (j > 1) best = BETTER(best, word(LENGTH + j - 1));
            made[j] = BETTER(made[j], best);
        }
    }
}

// Reads words of neighbouring lines; beyond the ends of a line nothing wins.
template <bool INSIDE> struct Lines {
    const Voxel *low, *high;
    Index stride;
    int start, size;
    __device__ __forceinline__ Word operator()(int i) const {
        const int at = INSIDE ? start + i : max(0, min(start + i, size - 1));
        const bool is_there = INSIDE || at == start + i;
        const Voxel a = low[at * stride], b = PACKED ? high[at * stride] : a;
        return word_of(to_key(is_there ? a : OUTSIDE), to_key(is_there ? b : OUTSIDE));
    }
};

struct Shared {
    const Word* words;
    __device__ __forceinline__ Word operator()(int i) const { return words[i]; }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) lines(
    const Voxel* __restrict__ source, Voxel* __restrict__ result,
    Index count, Index inner, int size)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned int pieces = (size + ALONG - 1) / ALONG;
    const int start = blockIdx.x % pieces * ALONG;
    const Index first = (Index)(blockIdx.x / pieces) * (32 * PER_WORD);
    Word made[EACH];
#if CONTIGUOUS
    __shared__ Word room[32 * PITCH];
    #pragma unroll 2
    for (int at = lane; at < REACH; at += 32) {
        const int x = start - LOW + at, x_read = max(0, min(x, size - 1));
        Word voxels[4][PER_WORD];  // one in each: there are no registers of less
        #pragma unroll
        for (int r = 0; r < 4; r++) {
            #pragma unroll
            for (int p = 0; p < PER_WORD; p++) {
                const Index line = min(first + 32 * p + 8 * r + warp, count - 1);
                voxels[r][p] = source[line * size + x_read];
            }
        }
        #pragma unroll
        for (int r = 0; r < 4; r++) {
            #pragma unroll
            for (int p = 0; p < PER_WORD; p++)
                voxels[r][p] = to_key(x == x_read ? (Voxel)voxels[r][p] : OUTSIDE);
            room[(8 * r + warp) * PITCH + at] = word_of(voxels[r][0], voxels[r][PER_WORD - 1]);
        }
    }
    __syncthreads();
    Word* const own = room + lane * PITCH + warp * EACH;
    run(Shared{own}, made);
    __syncthreads();
    #pragma unroll
    for (int j = 0; j < EACH; j++) own[j] = made[j];
    __syncthreads();
    for (int at = lane; at < ALONG && start + at < size; at += 32) {
        #pragma unroll
        for (int r = 0; r < 4; r++) {
            const Word word = room[(8 * r + warp) * PITCH + at];
            const Index line = first + 8 * r + warp;
            if (line < count) result[line * size + start + at] = from_key(low_of(word));
            if (PACKED && line + 32 < count)
                result[(line + 32) * size + start + at] = from_key(high_of(word));
        }
    }
#else
    const Index low = first + lane, high = low + 32;
    const Index low_read = min(low, count - 1), high_read = min(high, count - 1);
    const Index low_at = low_read / inner * inner * size + low_read % inner;
    const Index high_at = high_read / inner * inner * size + high_read % inner;
    const int begin = start + warp * EACH;
    if (begin >= size) return;
    const Voxel *const a = source + low_at, *const b = source + high_at;
    if (begin >= LOW && begin - LOW + EACH + LENGTH - 2 < size)
        run(Lines<true>{a, b, inner, begin - LOW, size}, made);
    else
        run(Lines<false>{a, b, inner, begin - LOW, size}, made);
    #pragma unroll
    for (int j = 0; j < EACH; j++) {
        const Index at = (Index)(begin + j) * inner;
        if (begin + j < size && low < count) result[low_at + at] = from_key(low_of(made[j]));
        if (PACKED && begin + j < size && high < count)
            result[high_at + at] = from_key(high_of(made[j]));
    }
#endif
}
