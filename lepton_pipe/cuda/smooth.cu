// Correlation with weights along z, y and x in one pass over memory.
//
// A block of threads takes a tile in y and x and goes along z. Each plane of the tile, as wide as the
// weights reach, is read once into shared memory; it is filtered along x into shared memory and along
// y into registers. Along z nothing is read again: each thread keeps a sum for every plane that is to
// come and adds the new plane to all of them,
//
//     sum[j] = sum[j + 1] + weight[last - 1 - j] * plane
//
// so that all planes of a result are added in the same order, wherever a tile begins. At the edges of
// the array it is mirrored: d c b a | a b c d | d c b a.
//
// Reads take longer than all that is done to a plane. So the voxels of the next plane are asked for,
// all at once, before the present one is filtered, and lie in registers until then.
//
// What is done to each voxel before and after stands in the places marked for it.

#define TAPS_Z $taps_z
#define TAPS_Y $taps_y
#define TAPS_X $taps_x
#define BEFORE_Z $before_z
#define BEFORE_Y $before_y
#define BEFORE_X $before_x
#define EACH $each                     // rows of the tile that a thread computes
#define THREADS 256
#define TILE_X 64
#define TILE_Y (4 * EACH)
#define ROWS (TILE_Y + TAPS_Y - 1)     // of a plane in shared memory
#define COLUMNS (TILE_X + TAPS_X - 1)
#define WINDOW ((TAPS_X + 3 + 3) / 4)  // words of four floats that four results along x need
#define PITCH (TILE_X - 4 + 4 * WINDOW)
// A thread reads the same columns of every GROUPS-th row. Where threads are left over, they read
// what others read as well: to ask who is left over would take longer.
#define GROUPS (COLUMNS < THREADS ? THREADS / COLUMNS : 1)
#define ACROSS ((COLUMNS + THREADS - 1) / THREADS)
#define DOWN ((ROWS + GROUPS - 1) / GROUPS)
#define ROWS_READ (DOWN * GROUPS)
#define BATCH 4                        // reads under way of what is the same for all planes
// Keeps a pointer in registers: the compiler would rather compute it anew for every voxel.
#ifdef __CUDACC__
#define KEEP(pointer) asm volatile("" : "+l"(pointer)); __builtin_assume(__isGlobal(pointer))
#else
#define KEEP(pointer)
#endif

struct __align__(16) Four { float of[4]; };

// Weights are constants of the code, not read from memory.
static __device__ __forceinline__ float weight_z(int k) {
    const float w[] = {$weights_z};
    return w[k];
}
static __device__ __forceinline__ float weight_y(int k) {
    const float w[] = {$weights_y};
    return w[k];
}
static __device__ __forceinline__ float weight_x(int k) {
    const float w[] = {$weights_x};
    return w[k];
}

static __device__ __forceinline__ int mirrored(int i, int n) {
    while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;
    return i;
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) smooth(
    $parameters)
{
    __shared__ Four read[ROWS_READ * PITCH / 4];
    __shared__ Four along_x[ROWS * TILE_X / 4];
    float* const plane = (float*)read;
    const int column = threadIdx.x % TILE_X, group = threadIdx.x / TILE_X;
    const int tile_x = blockIdx.x * TILE_X, tile_y = blockIdx.y * TILE_Y;
    const int first_z = blockIdx.z * planes;
    const int last_z = first_z + planes < result_z ? first_z + planes : result_z;
    const int steps = last_z - first_z + TAPS_Z - 1;

    // Where the rows and columns that a thread reads lie in each input.
    int across[ACROSS];
    #pragma unroll
    for (int c = 0; c < ACROSS; c++) {
        const int at = threadIdx.x % COLUMNS + c * THREADS;
        across[c] = at < COLUMNS ? at : COLUMNS - 1;
    }
    const int down = threadIdx.x / COLUMNS < GROUPS ? threadIdx.x / COLUMNS : GROUPS - 1;
$tables
    for (int row = threadIdx.x; row < ROWS_READ; row += THREADS) {
        const int y = mirrored(start_y + tile_y - BEFORE_Y + row, image_y);
$rows
    }
    #pragma unroll
    for (int c = 0; c < ACROSS; c++) {
        const int x = mirrored(start_x + tile_x - BEFORE_X + across[c], image_x);
$columns
    }
    __syncthreads();

    auto ask = [&](int step) {
        const int z = mirrored(start_z + first_z - BEFORE_Z + step, image_z);
        #pragma unroll
        for (int c = 0; c < ACROSS; c++) {
$planes
            #pragma unroll
            for (int r = 0; r < DOWN; r++) {
                const int row = down + r * GROUPS;
$asked
            }
        }
    };

    float sum[TAPS_Z > 1 ? TAPS_Z - 1 : 1][EACH];
    #pragma unroll
    for (int j = 0; j < TAPS_Z - 1; j++)
        #pragma unroll
        for (int r = 0; r < EACH; r++) sum[j][r] = 0.0f;

    ask(0);
    for (int step = 0; step < steps; step++) {
        #pragma unroll
        for (int c = 0; c < ACROSS; c++)
            #pragma unroll
            for (int first = 0; first < DOWN; first += BATCH) {
                #pragma unroll
                for (int r = first; r < DOWN && r < first + BATCH; r++) {
                    const int row = down + r * GROUPS;
$same
                }
                #pragma unroll
                for (int r = first; r < DOWN && r < first + BATCH; r++) {
                    const int row = down + r * GROUPS;
$load
                    plane[row * PITCH + across[c]] = $loaded;
                }
            }
        if (step + 1 < steps) ask(step + 1);
        __syncthreads();

        for (unsigned int task = threadIdx.x; task < ROWS * (TILE_X / 4); task += THREADS) {
            const unsigned int row = task / (TILE_X / 4), four = task % (TILE_X / 4);
            float window[4 * WINDOW];
            #pragma unroll
            for (int k = 0; k < WINDOW; k++) {
                const Four word = read[row * (PITCH / 4) + four + k];
                #pragma unroll
                for (int i = 0; i < 4; i++) window[4 * k + i] = word.of[i];
            }
            Four made;
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                float total = weight_x(0) * window[i];
                #pragma unroll
                for (int k = 1; k < TAPS_X; k++) total = fmaf(weight_x(k), window[i + k], total);
                made.of[i] = total;
            }
            along_x[row * (TILE_X / 4) + four] = made;
        }
        __syncthreads();

        float value[EACH];
        #pragma unroll
        for (int k = 0; k < EACH + TAPS_Y - 1; k++) {
            const float here = ((float*)along_x)[(group * EACH + k) * TILE_X + column];
            #pragma unroll
            for (int r = 0; r < EACH; r++)
                if (k == r) value[r] = weight_y(0) * here;
                else if (k > r && k < r + TAPS_Y) value[r] = fmaf(weight_y(k - r), here, value[r]);
        }
        float done[EACH];
        #pragma unroll
        for (int r = 0; r < EACH; r++) {
#if TAPS_Z > 1
            done[r] = fmaf(weight_z(TAPS_Z - 1), value[r], sum[0][r]);
            #pragma unroll
            for (int j = 0; j < TAPS_Z - 2; j++)
                sum[j][r] = fmaf(weight_z(TAPS_Z - 2 - j), value[r], sum[j + 1][r]);
            sum[TAPS_Z - 2][r] = weight_z(0) * value[r];
#else
            done[r] = weight_z(0) * value[r];
#endif
        }

        const int z_out = first_z + step - (TAPS_Z - 1), x_out = tile_x + column;
        if (z_out >= first_z && x_out < result_x) {
            int y_out = tile_y + group * EACH;
            long long i = ((long long)z_out * result_y + y_out) * result_x + x_out;
            #pragma unroll
            for (int r = 0; r < EACH; r++) {
                if (y_out < result_y) {
                    const float filtered = done[r];
$store
                }
                y_out++;
                i += result_x;
            }
        }
        // No other barrier is needed: what is read above was filled before the last one, and the
        // next plane is read into memory that nobody looks at after it.
    }
}
