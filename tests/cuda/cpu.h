// Enough of CUDA to run a kernel on a CPU, block after block. The threads of a block are fibres that
// give way to each other where the kernel says __syncthreads(): all come to it before any goes on;
// and at random before atomic operations, so that others come between. In every other block they go in
// the reverse order, which shows much of what depends on it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>
using namespace std;

struct Three { unsigned int x, y, z; };
static Three threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

static ucontext_t scheduler;
static vector<ucontext_t> fibres;
static vector<Three> places;
static size_t running;
static bool ended, paused, with_fibres;

static void __syncthreads() { swapcontext(&fibres[running], &scheduler); }

// Before an atomic operation, a fibre gives way to the others of its block now and then.
static void may_pause() {
    static unsigned int state = 1;
    state = state * 1664525u + 1013904223u;
    if (!with_fibres || state >> 30) return;
    paused = true;
    swapcontext(&fibres[running], &scheduler);
}

template <class T> static T __ldg(const T* p) { return *p; }
// What a cache holds may be old: a fibre that reads gives way before it goes on.
template <class T> static T __ldca(const T* p) { T held = *p; may_pause(); return held; }
template <class T> static T atomicAdd(T* p, T v) { may_pause(); T old = *p; *p += v; return old; }
template <class T> static T atomicOr(T* p, T v) { may_pause(); T old = *p; *p |= v; return old; }
template <class T> static T atomicMin(T* p, T v) {
    may_pause();
    T old = *p;
    if (v < old) *p = v;
    return old;
}
template <class T> static T atomicMax(T* p, T v) {
    may_pause();
    T old = *p;
    if (v > old) *p = v;
    return old;
}
template <class T> static T atomicCAS(T* p, T held, T v) {
    may_pause();
    T old = *p;
    if (old == held) *p = v;
    return old;
}
static unsigned int __byte_perm(unsigned int a, unsigned int b, unsigned int which) {
    unsigned int made = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned int from = which >> 4 * i & 7;
        made |= ((from < 4 ? a : b) >> 8 * (from & 3) & 255) << 8 * i;
    }
    return made;
}
#define PAIRWISE(name, Half, better) \
    static unsigned int name(unsigned int a, unsigned int b) { \
        const Half a_low = (Half)a, a_high = (Half)(a >> 16), b_low = (Half)b, b_high = (Half)(b >> 16); \
        const Half low = a_low better b_low ? a_low : b_low, high = a_high better b_high ? a_high : b_high; \
        return (unsigned int)(uint16_t)low | (unsigned int)(uint16_t)high << 16; \
    }
PAIRWISE(__vminu2, uint16_t, <)
PAIRWISE(__vmaxu2, uint16_t, >)
PAIRWISE(__vmins2, int16_t, <)
PAIRWISE(__vmaxs2, int16_t, >)

static int __ffs(int bits) { return __builtin_ffs(bits); }
static int __popc(unsigned int bits) { return __builtin_popcount(bits); }
static unsigned int __float_as_uint(float v) { unsigned int b; memcpy(&b, &v, 4); return b; }
static long long __double_as_longlong(double v) { long long b; memcpy(&b, &v, 8); return b; }
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template <class... A, size_t... I>
static void called(void (*f)(A...), void** args, index_sequence<I...>) {
    f(*(typename remove_reference<A>::type*)args[I]...);
}

template <class... A> static index_sequence_for<A...> arity(void (*)(A...)) { return {}; }

static void (*body)(void**);
static void** arguments;
static void fibre() { body(arguments); ended = true; swapcontext(&fibres[running], &scheduler); }

// Run a grid; with `waits`, each thread has a stack of its own.
static void launch(void (*f)(void**), const unsigned int* grid, const unsigned int* block,
                   void** args, bool waits) {
    body = f; arguments = args; with_fibres = waits;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    const size_t n = (size_t)block[0] * block[1] * block[2], room = 1 << 16;
    places.resize(n);
    for (size_t t = 0; t < n; t++)
        places[t] = {(unsigned)(t % block[0]), (unsigned)(t / block[0] % block[1]),
                     (unsigned)(t / block[0] / block[1])};
    static vector<char> stacks;
    if (waits && stacks.size() < n * room) stacks.resize(n * room);
    for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
    for (unsigned x = 0; x < grid[0]; x++) {
        blockIdx = {x, y, z};
        if (!waits) {
            for (size_t t = 0; t < n; t++) { threadIdx = places[t]; f(args); }
            continue;
        }
        fibres.assign(n, ucontext_t());
        vector<size_t> alive(n);
        for (size_t t = 0; t < n; t++) {
            getcontext(&fibres[t]);
            fibres[t].uc_stack.ss_sp = &stacks[t * room];
            fibres[t].uc_stack.ss_size = room;
            fibres[t].uc_link = nullptr;
            makecontext(&fibres[t], fibre, 0);
            alive[t] = (x + y + z) % 2 ? n - 1 - t : t;
        }
        while (!alive.empty()) {
            // Who waits at a barrier goes on once nobody is on the way to it.
            vector<size_t> left, going = alive;
            while (!going.empty()) {
                vector<size_t> late;
                for (size_t t : going) {
                    running = t; ended = paused = false; threadIdx = places[t];
                    swapcontext(&scheduler, &fibres[t]);
                    if (!ended) (paused ? late : left).push_back(t);
                }
                going.swap(late);
            }
            alive.swap(left);
        }
    }
}
