// Connected components by union-find in the image itself. Each voxel of the foreground holds the
// index of a voxel of its component that comes no later; one that holds its own is a root.
//
//   link_runs        voxels of a piece hold the first of their run
//   unite            roots of what touches are linked, the later to the earlier
//   flatten          voxels hold their root: the first voxel of their component in C order
//   list_roots       roots in C order
//   paint            a root holds ~number by now; all get their number
//
// Why threads cannot lose anything to each other in unite: an entry that is not a root's never
// becomes one again, and is only ever replaced by what it leads to anyway. A root's entry is changed
// by compare-and-swap alone, once, and by whoever found that it was one still. So entries may be read
// from the nearest cache, which need not know what others changed: what an entry ever held belongs to
// the same component. (All threads that meet a large component read its root's.) Whoever took for a
// root what is none any more is told by the swap what it leads to, an earlier voxel; there it goes on,
// and so comes to an end whatever it reads.
// As in Jaiganesh, Burtscher (2018), A high-performance connected components implementation for
// GPUs, HPDC; here for runs: two runs in neighbouring rows are linked once, where they first touch.

typedef $mask Mask;
#define BACKGROUND (-2147483647 - 1)
#define SLOTS 256
#define PROBES 8

static __device__ __forceinline__ int root_of(const int* parent, int i) {
    for (;;) {
        const int up = __ldca(&parent[i]);
        if (up == i) return i;
        i = up;
    }
}

// The same, and what lies on the way leads two steps further from then on.
static __device__ __forceinline__ int root_halving(int* parent, int i) {
    for (;;) {
        const int up = __ldca(&parent[i]);
        if (up == i) return i;
        const int above = __ldca(&parent[up]);
        if (above == up) return up;
        *(volatile int*)&parent[i] = above;
        i = above;
    }
}

static __device__ void join(int* parent, int a, int b) {
    for (;;) {
        a = root_halving(parent, a);
        b = root_halving(parent, b);
        if (a == b) return;
        const int late = a > b ? a : b, early = a > b ? b : a;
        const int held = atomicCAS(&parent[late], late, early);
        if (held == late) return;
        a = held;
        b = early;
    }
}

// Whether the voxels x - 1 to x + n of a row are foreground, in the bits 0 to n + 1.
static __device__ __forceinline__ unsigned int bits_of(const Mask* row, int x, int n, int stop) {
    Mask here[EACH];
    load(row + x, n, here);
    unsigned int bits = 0;
    #pragma unroll
    for (int k = 0; k < EACH; k++)
        if (k < n && here[k] != 0) bits |= 2u << k;
    if (x > 0 && row[x - 1] != 0) bits |= 1u;
    if (x + n < stop && row[x + n] != 0) bits |= 2u << n;
    return bits;
}

// Join voxels of a piece, by their bits, with those that lie `by` further on.
static __device__ __forceinline__ void join_all(int* parent, unsigned int bits, long long at, long long by) {
    while (bits) {
        const int k = __ffs((int)bits) - 2;
        join(parent, (int)(at + k), (int)(at + k + by));
        bits &= bits - 1;
    }
}

extern "C" __global__ void link_runs(
    const Mask* __restrict__ mask, int* parent, unsigned int pieces, EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    const Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    if (p.n == 0) return;
    Mask here[EACH];
    load(mask + p.at, p.n, here);
    int links[EACH], first = BACKGROUND;
    #pragma unroll
    for (int k = 0; k < EACH; k++) {
        if (k >= p.n || here[k] == 0) first = BACKGROUND;
        else if (first == BACKGROUND) first = (int)p.at + k;
        links[k] = first;
    }
    store(links, p.n, parent + p.at);
}

extern "C" __global__ void unite(
    const Mask* __restrict__ mask, int* parent, unsigned int pieces, EXTENTS, int connectivity)
{
    const Extents e = EXTENTS_GIVEN;
    Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    if (p.n == 0 || p.z >= e.stop_z || p.y >= e.stop_y || p.x >= e.stop_x) return;
    p.n = e.stop_x - p.x < p.n ? e.stop_x - p.x : p.n;
    const Mask* const row = mask + p.at - p.x;
    const unsigned int mine = bits_of(row, p.x, p.n, e.stop_x), within = (2u << p.n) - 2u;
    if (!(mine & within)) return;
    if ((mine & 3u) == 3u) join(parent, (int)p.at, (int)p.at - 1);
    const unsigned int starts = mine & ~(mine << 1) & within;
    for (int dz = -1; dz <= 0; dz++) {
        for (int dy = -1; dy <= (dz ? 1 : -1); dy++) {
            const int steps = (dz != 0) + (dy != 0);
            if (steps > connectivity || p.z + dz < 0 || p.y + dy < 0 || p.y + dy >= e.stop_y)
                continue;
            const long long by = ((long long)dz * e.height + dy) * e.width;
            const unsigned int other = bits_of(row + by, p.x, p.n, e.stop_x);
            if (steps == connectivity) {
                const unsigned int both = mine & other;
                join_all(parent, both & ~(both << 1) & within, p.at, by);
                continue;
            }
            // Runs touch by corners, too: where the later begins, or where the other ends there.
            join_all(parent, starts & (other << 1), p.at, by - 1);
            join_all(parent, starts & other & ~(other << 1), p.at, by);
            join_all(parent, mine & within & (other >> 1) & ~other, p.at, by + 1);
        }
    }
}

// The bits of roots among the voxels of a piece that lie in the box.
static __device__ __forceinline__ unsigned int roots_in(const Piece& p, const int* links, const Extents& e) {
    if (p.z >= e.stop_z || p.y >= e.stop_y) return 0;
    unsigned int bits = 0;
    #pragma unroll
    for (int k = 0; k < EACH; k++)
        if (k < p.n && p.x + k < e.stop_x && links[k] == (int)p.at + k) bits |= 1u << k;
    return bits;
}

extern "C" __global__ void flatten(int* parent, int* counts, unsigned int pieces, EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    __shared__ int count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    if (p.n) {
        int links[EACH], last = BACKGROUND, root = BACKGROUND;
        load(parent + p.at, p.n, links);
        const unsigned int roots = roots_in(p, links, e);
        #pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (k >= p.n || links[k] == BACKGROUND) continue;
            if (links[k] != last) root = root_of(parent, last = links[k]);
            links[k] = root;
        }
        store(links, p.n, parent + p.at);
        if (roots) atomicAdd(&count, __popc(roots));
    }
    __syncthreads();
    if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// `ends` has, for each block of threads, the number of roots in all up to its end.
extern "C" __global__ void list_roots(
    const int* __restrict__ parent, const int* __restrict__ ends, int* roots, unsigned int pieces,
    EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    __shared__ int sums[THREADS];
    const int before = blockIdx.x ? ends[blockIdx.x - 1] : 0;
    if (ends[blockIdx.x] == before) return;
    const Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    unsigned int bits = 0;
    if (p.n) {
        int links[EACH];
        load(parent + p.at, p.n, links);
        bits = roots_in(p, links, e);
    }
    int sum = sums[threadIdx.x] = __popc(bits);
    __syncthreads();
    for (int step = 1; step < THREADS; step *= 2) {
        const int more = (int)threadIdx.x >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] = sum += more;
        __syncthreads();
    }
    int* next = roots + before + sum - __popc(bits);
    for (; bits; bits &= bits - 1) *next++ = (int)p.at + __ffs((int)bits) - 1;
}

// Reads its own entry before anyone replaces it; a root's may be replaced already, by its number.
static __device__ __forceinline__ Piece numbers_of(
    const int* parent, unsigned int pieces, const Extents& e, int* numbers)
{
    const Piece p = piece_of(blockIdx.x * THREADS + threadIdx.x, pieces, e);
    if (p.n == 0) return p;
    load(parent + p.at, p.n, numbers);
    int last = BACKGROUND, number = 0;
    #pragma unroll
    for (int k = 0; k < EACH; k++) {
        if (k >= p.n || numbers[k] == BACKGROUND) {
            numbers[k] = 0;
            continue;
        }
        if (numbers[k] != last) {
            last = numbers[k];
            const int held = last < 0 ? last : __ldca(&parent[last]);
            number = held < 0 ? ~held : held;
        }
        numbers[k] = number;
    }
    return p;
}

extern "C" __global__ void paint(int* parent, unsigned int pieces, EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    int numbers[EACH];
    const Piece p = numbers_of(parent, pieces, e, numbers);
    if (p.n) store(numbers, p.n, parent + p.at);
}

// Add what a block of threads finds of a number in shared memory first: few add to one address.
static __device__ __forceinline__ void add_size(int number, int n, int* keys, int* sums, int* sizes) {
    unsigned int slot = (unsigned int)number * 2654435769u >> 24;
    for (int probe = 0; probe < PROBES; probe++, slot = (slot + 1) % SLOTS) {
        int held = ((volatile int*)keys)[slot];
        if (held == 0) held = atomicCAS(&keys[slot], 0, number);
        if (held == 0 || held == number) {
            atomicAdd(&sums[slot], n);
            return;
        }
    }
    atomicAdd(&sizes[number], n);
}

// The same, and count the voxels of each number in the box.
extern "C" __global__ void paint_and_count(int* parent, int* sizes, unsigned int pieces, EXTENTS)
{
    const Extents e = EXTENTS_GIVEN;
    __shared__ int keys[SLOTS], sums[SLOTS];
    keys[threadIdx.x] = sums[threadIdx.x] = 0;
    __syncthreads();
    int numbers[EACH];
    const Piece p = numbers_of(parent, pieces, e, numbers);
    if (p.n) {
        store(numbers, p.n, parent + p.at);
        const bool inside = p.z < e.stop_z && p.y < e.stop_y;
        int last = 0, n = 0;
        #pragma unroll
        for (int k = 0; k < EACH; k++) {
            const int number = inside && k < p.n && p.x + k < e.stop_x ? numbers[k] : 0;
            if (number != last) {
                if (last) add_size(last, n, keys, sums, sizes);
                last = number;
                n = 0;
            }
            n++;
        }
        if (last) add_size(last, n, keys, sums, sizes);
    }
    __syncthreads();
    if (keys[threadIdx.x]) atomicAdd(&sizes[keys[threadIdx.x]], sums[threadIdx.x]);
}
