// Rows in pieces of EACH voxels: a thread looks at one, which is read in words of 16 bytes.
#define EACH $each
#define THREADS $threads  // of a block

// An image as (outer, z, y, x), and where a box of it ends that begins at its first voxel.
struct Extents { int depth, height, width, stop_z, stop_y, stop_x; };

#define EXTENTS int depth, int height, int width, int stop_z, int stop_y, int stop_x
#define EXTENTS_GIVEN {depth, height, width, stop_z, stop_y, stop_x}

struct Piece {
    int z, y, x, n;  // n voxels from x on; 0 where there is no piece
    long long at;    // of the first of them in the flattened image
};

static __device__ __forceinline__ Piece piece_of(
    unsigned int number, unsigned int pieces, const Extents& e)
{
    if (number >= pieces) return {0, 0, 0, 0, 0};
    const unsigned int each_row = ((unsigned int)e.width + EACH - 1) / EACH;
    const unsigned int row = number / each_row;
    Piece p;
    p.x = (int)(number % each_row) * EACH;
    p.y = (int)(row % (unsigned int)e.height);
    p.z = (int)(row / (unsigned int)e.height % (unsigned int)e.depth);
    p.n = e.width - p.x < EACH ? e.width - p.x : EACH;
    p.at = (long long)row * e.width + p.x;
    return p;
}

template <class T> struct alignas(EACH * sizeof(T) < 16 ? EACH * sizeof(T) : 16) Word {
    T of[EACH * sizeof(T) < 16 ? EACH : 16 / sizeof(T)];
};

template <class T> static __device__ __forceinline__ void load(const T* from, int n, T* to) {
    constexpr int many = sizeof(Word<T>) / sizeof(T);
    if (n == EACH && (size_t)from % sizeof(Word<T>) == 0) {
        #pragma unroll
        for (int w = 0; w < EACH / many; w++) {
            const Word<T> word = ((const Word<T>*)from)[w];
            #pragma unroll
            for (int k = 0; k < many; k++) to[w * many + k] = word.of[k];
        }
    } else {
        #pragma unroll
        for (int k = 0; k < EACH; k++)
            if (k < n) to[k] = from[k];
    }
}

template <class T> static __device__ __forceinline__ void store(const T* from, int n, T* to) {
    constexpr int many = sizeof(Word<T>) / sizeof(T);
    if (n == EACH && (size_t)to % sizeof(Word<T>) == 0) {
        #pragma unroll
        for (int w = 0; w < EACH / many; w++) {
            Word<T> word;
            #pragma unroll
            for (int k = 0; k < many; k++) word.of[k] = from[w * many + k];
            ((Word<T>*)to)[w] = word;
        }
    } else {
        #pragma unroll
        for (int k = 0; k < EACH; k++)
            if (k < n) to[k] = from[k];
    }
}
