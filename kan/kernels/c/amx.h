/* The same products by AMX, the processor's matrix unit: 16 rows of x with 16 outputs in one instruction.
 *
 * W is packed as linear.c packs it, which is how the unit wants it. Whether the unit is used depends on the processor
 * and on the layer's width, never on the number of rows: it sums in another order than the vectors do, and a row's
 * result must not depend on its company. */
#ifndef KG_AMX_H
#define KG_AMX_H

#include "vectors.h"

#if defined(KG_AVAILABLE) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define KG_AMX_AVAILABLE 1

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

enum {
    TILE = 16,           /* rows of a tile, and float32 numbers in each */
    DEEP = 2 * TILE,     /* inputs that one instruction sums over */
    REQUEST_UNIT = 0x1023, /* arch_prctl: ARCH_REQ_XCOMP_PERM */
    TILE_DATA = 18       /* XFEATURE_XTILEDATA */
};

/* What the tiles hold: sums of upper and lower rows of x with the lower and the higher outputs of a block, and their
 * factors. Macros, because compilers paste the numbers into the instructions' names. */
#define UPPER_LOW 0
#define UPPER_HIGH 1
#define LOWER_LOW 2
#define LOWER_HIGH 3
#define UPPER_X 4
#define LOWER_X 5
#define LOW_W 6
#define HIGH_W 7
#define TILES 8

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileShapes; /* as LDTILECFG reads it */

/* Asks Linux, for the whole process, to let it use the unit. Whether there is one and it may be used. */
static int may_use_tiles(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d & 1u << 22) || !(d & 1u << 24)) return 0; /* AMX-BF16, AMX-TILE */
    return !syscall(SYS_arch_prctl, REQUEST_UNIT, TILE_DATA);
}

/* Tiles for `rows` rows at a time, at most 2 TILE. A thread does this before it multiplies, and releases them after. */
AMX static void shape_tiles(int64_t rows)
{
    TileShapes shapes = {.palette = 1};
    for (int t = 0; t < TILES; t++) {
        int upper = t == UPPER_LOW || t == UPPER_HIGH || t == UPPER_X, weight = t == LOW_W || t == HIGH_W;
        int64_t own = upper ? rows : rows - TILE;
        shapes.bytes[t] = 64;
        shapes.rows[t] = (uint8_t)(weight || own >= TILE ? TILE : own < 1 ? 1 : own);
    }
    __asm__ volatile("" : : "r"(&shapes) : "memory"); /* gcc 12 believes that only 8 bytes are read, and stores no more */
    _tile_loadconfig(&shapes);
}

AMX static void release_tiles(void) { _tile_release(); }

/* sums [TILE or 2 TILE, 2 TILE] = x Wᵀ for one block of outputs; x's rows lie `in` numbers apart. */
AMX static void multiply_tiles(int tall, const bf16 *x, const pair *weight, int64_t in, float *sums)
{
    const int64_t x_step = in * (int64_t)sizeof(bf16), w_step = 2 * TILE * (int64_t)sizeof(pair);
    const int64_t sum_step = 2 * TILE * (int64_t)sizeof(float);
    _tile_zero(UPPER_LOW);
    _tile_zero(UPPER_HIGH);
    _tile_zero(LOWER_LOW);
    _tile_zero(LOWER_HIGH);
    for (int64_t i = 0; i < in; i += DEEP, weight += TILE * 2 * TILE) {
        _tile_loadd(LOW_W, weight, w_step);
        _tile_loadd(HIGH_W, weight + TILE, w_step);
        _tile_loadd(UPPER_X, x + i, x_step);
        _tile_dpbf16ps(UPPER_LOW, UPPER_X, LOW_W);
        _tile_dpbf16ps(UPPER_HIGH, UPPER_X, HIGH_W);
        if (tall) {
            _tile_loadd(LOWER_X, x + TILE * in + i, x_step);
            _tile_dpbf16ps(LOWER_LOW, LOWER_X, LOW_W);
            _tile_dpbf16ps(LOWER_HIGH, LOWER_X, HIGH_W);
        }
    }
    _tile_stored(UPPER_LOW, sums, sum_step);
    _tile_stored(UPPER_HIGH, sums + TILE, sum_step);
    if (tall) {
        _tile_stored(LOWER_LOW, sums + TILE * 2 * TILE, sum_step);
        _tile_stored(LOWER_HIGH, sums + TILE * 2 * TILE + TILE, sum_step);
    }
}

#endif
#endif
