/* What a work item is, and what is the same for all of them, whichever columns their rows see: their queries as tiles,
 * softmax, and where results go. */
#ifndef KG_ROWS_H
#define KG_ROWS_H

#include "blocks.h"

#ifdef KG_AVAILABLE

#include <math.h>

enum { NEXT = 6 /* blocks that memory is asked for ahead of their use */ };

/* Rows of one kv head of one sequence. A row is one query of one of the kv head's heads: row r is query r / group of
 * head r % group. */
typedef struct {
    const Sequence *sequence;
    int64_t kv_head, first, rows;
} Item;

/* What a thread needs besides its input; each part's size is in attention.c. */
typedef struct {
    float *scores; /* [rows, columns], and in place of each row later its weights as bf16 */
    float *sums;   /* [rows, d]: weights times values */
    pair *queries; /* [rows / ROWS, d / 2, ROWS] */
    float *steps;  /* [2, d]: of a small block's keys or values */
    pair *tile;    /* a block's keys as [d / 2, PAGE] or its values as [PAGE / 2, d] */
    /* Of rows that choose: */
    Block *near, *far; /* what all of them see, and what one of them at least has chosen */
    pair *apart;       /* their queries once more, each place's by themselves: [places, group / ROWS, d / 2, ROWS] */
    pair *block;       /* tiles of all its pages */
    float *sought;     /* [d]: the sum of a place's queries */
    float *marks;      /* [blocks of the context]: how well they fit that */
    int32_t *choice;   /* [places, chosen], ascending */
    int32_t *cursor;   /* [places]: how many of these are dealt with */
    int32_t *choosers; /* [places] */
} Scratch;

INLINE __mmask16 lanes(int64_t count)
{
    return (__mmask16)(count >= LANES ? 0xffff : (1 << (count < 0 ? 0 : count)) - 1);
}

/* The tokens of a block that a query sees. */
INLINE __mmask16 seen(const Sequence *s, const Block *block, int64_t query)
{
    return lanes(block->part >= 0 ? block->tokens : s->computed + query + 1 - block->tokens);
}

/* Products of one query -> weights over `near` of its blocks, and over the pages behind them up to `all`, which it sees
 * to the last token. Those that add up to one are bf16, in place of the row's first half, times their tokens' scale where
 * the block is small; if `mass` [parts] is not null, it gets each mounted part's in float32. `phi` [parts] may be null,
 * and so may value_scales [blocks, PAGE]: small blocks' values have none then that are not in their tile. */
AVX512 static void softmax(float *row, const Sequence *s, const Block *blocks, int64_t query, int64_t near,
                           int64_t all, const float *phi, const bf16 *value_scales, float scale, float *mass)
{
    const __m512 never = _mm512_set1_ps(-INFINITY);
    __m512 top = never, sum = _mm512_setzero_ps();
    for (int64_t b = 0; b < all; b++) {
        __m512 x = _mm512_loadu_ps(row + b * PAGE);
        if (b < near && phi && blocks[b].part >= 0) x = _mm512_add_ps(x, _mm512_set1_ps(phi[blocks[b].part]));
        x = _mm512_mask_mul_ps(never, b < near ? seen(s, blocks + b, query) : 0xffff, x, _mm512_set1_ps(scale));
        _mm512_storeu_ps(row + b * PAGE, x);
        top = _mm512_max_ps(top, x);
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int64_t b = 0; b < all; b++) {
        __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(row + b * PAGE), top));
        _mm512_storeu_ps(row + b * PAGE, e);
        sum = _mm512_add_ps(sum, e);
    }
    __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t b = 0; b < all; b++) {
        __m512 weight = _mm512_mul_ps(_mm512_loadu_ps(row + b * PAGE), share);
        if (b < near && mass && blocks[b].part >= 0) mass[blocks[b].part] += _mm512_reduce_add_ps(weight);
        if (b < near && value_scales && blocks[b].small) weight = _mm512_mul_ps(weight, load16(value_scales + blocks[b].number * PAGE));
        store16((bf16 *)row + b * PAGE, weight);
    }
}

static inline int64_t group_of(const Attention *a) { return a->heads / a->kv_heads; }

static inline int64_t query_of(const Attention *a, const Item *item, int64_t row)
{
    return (item->first + row) / group_of(a);
}

static inline int64_t head_of(const Attention *a, const Item *item, int64_t row)
{
    return item->kv_head * group_of(a) + (item->first + row) % group_of(a);
}

/* One row's query, into a tile of ROWS of them. */
static void pack_query(const Attention *a, const Item *item, int64_t row, pair *to)
{
    const int64_t query = item->sequence->first_query + query_of(a, item, row);
    const pair *from = (const pair *)(a->q + (query * a->heads + head_of(a, item, row)) * a->d);
    for (int64_t i = 0; i < a->d / 2; i++) to[ROWS * i] = from[i];
}

static void pack_queries(const Attention *a, const Item *item, pair *out)
{
    for (int64_t r = 0; r < item->rows; r++) pack_query(a, item, r, out + r / ROWS * ROWS * (a->d / 2) + r % ROWS);
}

/* Scores of all rows on blocks that all of them see: [rows, columns], from the first column on. */
AVX512 static void score_blocks(const Attention *a, const Item *item, const Block *blocks, int64_t count,
                                int64_t columns, Scratch scratch)
{
    fetch(a, item->kv_head, blocks, NEXT, blocks + count);
    for (int64_t b = 0; b < count; b++) {
        fetch(a, item->kv_head, blocks + b + NEXT, 1, blocks + count);
        key_tile(a, item->kv_head, blocks + b, scratch.steps, scratch.tile);
        for (int64_t r = 0; r < item->rows; r += ROWS)
            score_rows(item->rows - r, scratch.queries + r * a->d / 2, scratch.tile, a->d,
                       scratch.scores + r * columns + b * PAGE, columns);
    }
}

/* Their weights [rows, columns] times their values, added to the sums. */
AVX512 static void weigh_blocks(const Attention *a, const Item *item, const Block *blocks, int64_t count,
                                int64_t columns, Scratch scratch)
{
    const int64_t plane = a->kv_heads + item->kv_head;
    fetch(a, plane, blocks, NEXT, blocks + count);
    for (int64_t b = 0; b < count; b++) {
        fetch(a, plane, blocks + b + NEXT, 1, blocks + count);
        value_tile(a, item->kv_head, blocks + b, scratch.steps, scratch.tile);
        for (int64_t r = 0; r < item->rows; r += ROWS) {
            const pair *weights = (const pair *)(scratch.scores + r * columns) + b * PAGE / 2;
            weigh_rows(item->rows - r, weights, scratch.tile, a->d, scratch.sums + r * a->d, columns);
        }
    }
}

/* `softmax` of all rows; what a sequence's last query gives to parts goes to `masses` [heads, parts]. */
static void softmax_rows(const Attention *a, const Item *item, const Block *blocks, int64_t near, int64_t all,
                         float *masses, Scratch scratch)
{
    const Sequence *s = item->sequence;
    const int64_t blocks_of_head = a->cache_pages * in_page(a);
    const bf16 *value_scales = a->bits == 8 ? a->value_steps + item->kv_head * blocks_of_head * PAGE : NULL;
    const float scale = 1 / sqrtf((float)a->d);
    for (int64_t r = 0; r < item->rows; r++) {
        const int64_t query = query_of(a, item, r), head = head_of(a, item, r);
        const float *phi = a->phi ? a->phi + head * a->parts : NULL;
        float *mass = s->ends && query == s->queries - 1 ? masses + head * a->parts : NULL;
        softmax(scratch.scores + r * all * PAGE, s, blocks, query, near, all, phi, value_scales, scale, mass);
    }
}

AVX512 static void store_sums(const Attention *a, const Item *item, const float *sums)
{
    for (int64_t r = 0; r < item->rows; r++) {
        const int64_t query = item->sequence->first_query + query_of(a, item, r);
        bf16 *out = a->out + (query * a->heads + head_of(a, item, r)) * a->d;
        for (int64_t i = 0; i < a->d; i += LANES) store16(out + i, _mm512_loadu_ps(sums + r * a->d + i));
    }
}

#endif
#endif
