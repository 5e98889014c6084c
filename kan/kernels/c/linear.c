/* Linear layers: y = x Wᵀ + bias + residual, for few to some hundred rows of x.
 *
 * W is packed once: blocks of 32 outputs, in each block pair after pair of inputs, so that a thread reads its part of W
 * from front to back. A block is held in the cache while all rows of x pass by, 14 at a time: their sums, 28 vectors,
 * stay in registers. A row's result does not depend on how many other rows there are. Where the processor has a matrix
 * unit, that multiplies instead (amx.h). */
#include "amx.h"

#ifdef KG_AVAILABLE

enum {
    WIDTH = 2 * LANES, /* outputs per block */
    TALL = 14,         /* most rows computed together */
    AHEAD = 16         /* pairs of inputs that W is fetched ahead of its use */
};

typedef struct {
    const bf16 *x;        /* [rows, in] */
    const pair *weight;   /* [out / WIDTH, in / 2, WIDTH] */
    const bf16 *bias;     /* [out], or null */
    const bf16 *residual; /* [rows, out], or null */
    bf16 *y;              /* [rows, out] */
    int64_t rows, in, out;
} Linear;

/* w [out, in] -> packed [out / WIDTH, in / 2, WIDTH]; out a multiple of WIDTH, in even */
void kg_pack_linear(const bf16 *w, int64_t out, int64_t in, pair *packed)
{
    for (int64_t block = 0; block < out / WIDTH; block++)
        for (int64_t i = 0; i < in / 2; i++)
            for (int64_t o = 0; o < WIDTH; o++)
                *packed++ = ((const pair *)(w + (block * WIDTH + o) * in))[i];
}

INLINE __m512 start(const bf16 *bias, int64_t output)
{
    return bias ? load16(bias + output) : _mm512_setzero_ps();
}

INLINE void finish(const Linear *l, __m512 sum, int64_t row, int64_t output)
{
    if (l->residual) sum = _mm512_add_ps(sum, load16(l->residual + row * l->out + output));
    store16(l->y + row * l->out + output, sum);
}

/* `count` rows from `first` on, for one block of outputs. */
INLINE void multiply(const int count, const Linear *l, int64_t block, int64_t first)
{
    const int64_t output = block * WIDTH;
    const pair *weight = l->weight + output * (l->in / 2), *x = (const pair *)(l->x + first * l->in);
    const int64_t stride = l->in / 2;
    __m512 low[TALL], high[TALL];
    for (int r = 0; r < count; r++) {
        low[r] = start(l->bias, output);
        high[r] = start(l->bias, output + LANES);
    }
    for (int64_t i = 0; i < l->in / 2; i++, weight += WIDTH) {
        __m512i a = _mm512_loadu_si512(weight), b = _mm512_loadu_si512(weight + LANES);
        _mm_prefetch((const char *)(weight + AHEAD * WIDTH), _MM_HINT_T0);
        _mm_prefetch((const char *)(weight + AHEAD * WIDTH + LANES), _MM_HINT_T0);
        for (int r = 0; r < count; r++) {
            low[r] = multiply_add(low[r], a, x[r * stride + i]);
            high[r] = multiply_add(high[r], b, x[r * stride + i]);
        }
    }
    for (int r = 0; r < count; r++) {
        finish(l, low[r], first + r, output);
        finish(l, high[r], first + r, output + LANES);
    }
}

/* A function per number of rows, so that their sums stay in registers. */
#define CASE(n) \
    case n: multiply(n, l, block, first); break;
AVX512 static void multiply_rows(int64_t count, const Linear *l, int64_t block, int64_t first)
{
    switch (count) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
    default: multiply(TALL, l, block, first);
    }
}

static void by_vectors(const Linear *l)
{
    const int64_t parts = (l->rows + TALL - 1) / TALL; /* of nearly equal size: a short rest would be slow */
#pragma omp parallel for schedule(dynamic)
    for (int64_t block = 0; block < l->out / WIDTH; block++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = l->rows * part / parts;
            multiply_rows(l->rows * (part + 1) / parts - first, l, block, first);
        }
}

#ifdef KG_AMX_AVAILABLE

AMX static void finish_rows(const Linear *l, const float *sums, int64_t block, int64_t first, int64_t count)
{
    const int64_t output = block * WIDTH;
    const __m512 low = start(l->bias, output), high = start(l->bias, output + LANES);
    for (int64_t r = 0; r < count; r++, sums += WIDTH) {
        finish(l, _mm512_add_ps(low, _mm512_loadu_ps(sums)), first + r, output);
        finish(l, _mm512_add_ps(high, _mm512_loadu_ps(sums + LANES)), first + r, output + LANES);
    }
}

/* All rows, for one block of outputs: 32 at a time. The last 16 or 32 overlap those before, so that all are of one
 * shape; what is computed twice is the same. */
static void multiply_block(const Linear *l, int64_t block)
{
    const pair *weight = l->weight + block * WIDTH * (l->in / 2);
    float sums[2 * TILE * WIDTH] __attribute__((aligned(64)));
    for (int64_t done = 0; done < l->rows; done += 2 * TILE) {
        int64_t left = l->rows - done;
        int tall = left > TILE;
        int64_t count = tall ? 2 * TILE : TILE;
        if (count > l->rows) count = l->rows;
        int64_t first = left < count ? l->rows - count : done;
        multiply_tiles(tall, l->x + first * l->in, weight, l->in, sums);
        finish_rows(l, sums, block, first, count);
    }
}

static void by_tiles(const Linear *l)
{
#pragma omp parallel
    {
        shape_tiles(l->rows);
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < l->out / WIDTH; block++) multiply_block(l, block);
        release_tiles(); /* a thread that holds tiles is slower to switch */
    }
}

/* Whether this processor has a matrix unit that this process may use. */
int kg_tiles(void) { return may_use_tiles(); }

#else

int kg_tiles(void) { return 0; }
static void by_tiles(const Linear *l) { by_vectors(l); }
enum { DEEP = 1 };

#endif

/* x [rows, in]; packed as above; bias [out] and residual [rows, out] may be null; y [rows, out]; `tiles`: use the
 * matrix unit, which only kg_tiles() allows */
void kg_linear(const bf16 *x, const pair *packed, const bf16 *bias, const bf16 *residual, int64_t rows, int64_t in,
               int64_t out, int64_t tiles, bf16 *y)
{
    const Linear l = {x, packed, bias, residual, y, rows, in, out};
    if (tiles && in % DEEP == 0)
        by_tiles(&l);
    else
        by_vectors(&l);
}

#endif
