// Voxels as words that are compared. Voxels of up to 16 bits lie two to a word, and both are compared
// at once. Floats become integers in the order of the floats, so that NaN and zeros of both signs
// have one place in it.

#define PACKED $packed      // voxels of 16 bits in a word of 32
#define SIGNED $signed
#define FLOATS $floats      // whether voxels are the bits of floats
typedef $voxel Voxel;
typedef $word Word;
#define TOP ((Voxel)$top)            // of floats: the largest integer of their size,
#define INFINITE ((Voxel)$infinite)  // the bits of infinity,
#define NOT_A_NUMBER ((Voxel)$nan)   // and what any NaN becomes
#define OUTSIDE ((Voxel)$outside)    // what lies beyond the edges, as a voxel
#define PER_WORD (PACKED ? 2 : 1)

static __device__ __forceinline__ Voxel to_key(Voxel v) {
#if FLOATS
    if ((v & TOP) > INFINITE) return NOT_A_NUMBER;
    return v < 0 ? v ^ TOP : v;
#else
    return v;
#endif
}

static __device__ __forceinline__ Voxel from_key(Voxel key) {
#if FLOATS
    return key < 0 ? key ^ TOP : key;
#else
    return key;
#endif
}

// Of two keys; what is above their own bits does not matter.
static __device__ __forceinline__ Word word_of(Word low, Word high) {
#if PACKED
    return __byte_perm(low, high, 0x5410);
#else
    return low;
#endif
}

static __device__ __forceinline__ Voxel low_of(Word word) { return (Voxel)word; }

static __device__ __forceinline__ Voxel high_of(Word word) {
#if PACKED
    return (Voxel)(word >> 16);
#else
    return (Voxel)word;
#endif
}

static __device__ __forceinline__ Word smaller(Word a, Word b) {
#if PACKED && SIGNED
    return __vmins2(a, b);
#elif PACKED
    return __vminu2(a, b);
#else
    return b < a ? b : a;
#endif
}

static __device__ __forceinline__ Word larger(Word a, Word b) {
#if PACKED && SIGNED
    return __vmaxs2(a, b);
#elif PACKED
    return __vmaxu2(a, b);
#else
    return b > a ? b : a;
#endif
}
