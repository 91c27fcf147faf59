// A program of lepton_pipe.networks for each tile of results: which voxels of a window to compare.
//
// A block of threads reads the voxels that the windows of its results touch into shared memory. Then
// each thread computes a column of results along z and y, all in registers; the places of what it
// compares are constants of the code. Where two voxels share a word they are 32 apart along x, so
// that neighbours along x are neighbouring words whatever the shift.

#define WINDOW_Z $window_z
#define WINDOW_Y $window_y
#define WINDOW_X $window_x
#define LOW_Z $low_z          // how far the window reaches to the low side
#define LOW_Y $low_y
#define LOW_X $low_x
#define TILE_Z $tile_z        // results of a thread
#define TILE_Y $tile_y
#define WARPS $warps
#define MIRRORED $mirrored    // d c b a | a b c d | d c b a at the edges, or OUTSIDE

#define ACROSS (32 * PER_WORD)
#define ROWS_Y (WARPS * TILE_Y + WINDOW_Y - 1)
#define ROWS_Z (TILE_Z + WINDOW_Z - 1)
#define EACH ((ROWS_Y + WARPS - 1) / WARPS)  // rows of a plane that a warp reads
#define PITCH (32 + WINDOW_X - 1)
#define PARTS (PER_WORD + (WINDOW_X > 1))

typedef $index Index;         // of a voxel in the whole array

static __device__ __forceinline__ int place(int i, int n) {
#if MIRRORED
    do {
        i = max(i, -1 - i);
        i = min(i, 2 * n - 1 - i);
    } while (i < 0);
    return i;
#else
    return max(0, min(i, n - 1));
#endif
}

static __device__ __forceinline__ bool is_inside(int i, int n) {
    return MIRRORED || (unsigned int)i < (unsigned int)n;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, $blocks) tiles(
    const Voxel* __restrict__ source, Voxel* __restrict__ result,
    int size_z, int size_y, int size_x, Index stride_z, Index stride_y)
{
    __shared__ Word room[ROWS_Z * ROWS_Y * PITCH];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Tiles that share most of what they read follow each other: along x, then along z.
    const unsigned int tiles_x = (size_x + ACROSS - 1) / ACROSS;
    const unsigned int tiles_z = (size_z + TILE_Z - 1) / TILE_Z;
    const int x_0 = blockIdx.x % tiles_x * ACROSS;
    const int z_0 = blockIdx.x / tiles_x % tiles_z * TILE_Z;
    const int y_0 = blockIdx.x / tiles_x / tiles_z * (WARPS * TILE_Y);

    // Where a thread reads is found once for all planes. What is read twice, past the last row and
    // past what the window reaches along x, is written twice, the same.
    Index columns[PARTS], rows[EACH];
    bool is_column[PARTS], is_row[EACH];
    #pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int x = x_0 - LOW_X + min(32 * p + lane, ACROSS + WINDOW_X - 2);
        columns[p] = place(x, size_x);
        is_column[p] = is_inside(x, size_x);
    }
    #pragma unroll
    for (int r = 0; r < EACH; r++) {
        const int y = y_0 - LOW_Y + min(r * WARPS + warp, ROWS_Y - 1);
        rows[r] = place(y, size_y) * stride_y;
        is_row[r] = is_inside(y, size_y);
    }
    const bool is_at_edge =
        !(is_inside(z_0 - LOW_Z, size_z) && is_inside(z_0 - LOW_Z + ROWS_Z - 1, size_z) &&
          is_inside(y_0 - LOW_Y, size_y) && is_inside(y_0 - LOW_Y + ROWS_Y - 1, size_y) &&
          is_inside(x_0 - LOW_X, size_x) && is_inside(x_0 - LOW_X + ACROSS + WINDOW_X - 2, size_x));
    const int past_last = max(0, (EACH - 1) * WARPS + warp - (ROWS_Y - 1));
    Word* plane_room = room + warp * PITCH + lane;
    #pragma unroll 1
    for (int plane = 0; plane < ROWS_Z; plane++, plane_room += ROWS_Y * PITCH) {
        const int z = z_0 - LOW_Z + plane;
        const Index start = place(z, size_z) * stride_z;
        Word voxels[EACH][PARTS];  // one in each: there are no registers of less
        #pragma unroll
        for (int r = 0; r < EACH; r++) {
            #pragma unroll
            for (int p = 0; p < PARTS; p++) voxels[r][p] = source[start + rows[r] + columns[p]];
        }
        if (is_at_edge) {
            const bool is_plane = is_inside(z, size_z);
            #pragma unroll
            for (int r = 0; r < EACH; r++) {
                #pragma unroll
                for (int p = 0; p < PARTS; p++)
                    if (!(is_plane && is_row[r] && is_column[p])) voxels[r][p] = OUTSIDE;
            }
        }
        #pragma unroll
        for (int r = 0; r < EACH; r++) {
            Word* const words = plane_room + (r * WARPS - (r == EACH - 1 ? past_last : 0)) * PITCH;
            #pragma unroll
            for (int p = 0; p < PARTS; p++) voxels[r][p] = to_key((Voxel)voxels[r][p]);
            words[0] = word_of(voxels[r][0], voxels[r][PER_WORD - 1]);
            if (WINDOW_X > 1 && lane < WINDOW_X - 1)
                words[32] = word_of(voxels[r][PARTS - PER_WORD], voxels[r][PARTS - 1]);
        }
    }
    __syncthreads();

    const Word* const own = room + warp * TILE_Y * PITCH + lane;
    const int y_own = y_0 + warp * TILE_Y, x_own = x_0 + lane;
    Voxel* const out = result + (z_0 * stride_z + y_own * stride_y + x_own);
    if (y_own >= size_y || x_own >= size_x) return;

#define AT(z, y, x) own[((z) * ROWS_Y + (y)) * PITCH + (x)]
#define PUT(z, y, word) \
    if (z_0 + z < size_z && y_own + y < size_y) { \
        out[z * stride_z + y * stride_y] = from_key(low_of(word)); \
        if (PACKED && x_own + 32 < size_x) \
            out[z * stride_z + y * stride_y + 32] = from_key(high_of(word)); \
    }
$program
}
