/* Linear layers: y = x Wᵀ + bias + residual, for few to some hundred rows of x.
 *
 * W is packed once: blocks of 32 outputs, in each block pair after pair of inputs, so that a thread reads its part of W
 * from front to back. A block is held in the cache while all rows of x pass by, 14 at a time: their sums, 28 vectors,
 * stay in registers. A row's result does not depend on how many other rows there are. */
#include "vectors.h"

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

/* x [rows, in]; packed as above; bias [out] and residual [rows, out] may be null; y [rows, out] */
void kg_linear(const bf16 *x, const pair *packed, const bf16 *bias, const bf16 *residual, int64_t rows, int64_t in,
               int64_t out, bf16 *y)
{
    const Linear l = {x, packed, bias, residual, y, rows, in, out};
    const int64_t parts = (rows + TALL - 1) / TALL; /* of nearly equal size: a short rest would be slow */
#pragma omp parallel for schedule(dynamic)
    for (int64_t block = 0; block < out / WIDTH; block++)
        for (int64_t part = 0; part < parts; part++) {
            int64_t first = rows * part / parts;
            multiply_rows(rows * (part + 1) / parts - first, &l, block, first);
        }
}

#endif
