/* Rows that choose: √n attention (`SqrtBlocks` in kan/patterns.py).
 *
 * A work item is a few neighbouring places, all in one block of the context. They share what is always seen: what is
 * mounted, the context's first block, theirs and the one before. Of the others each place chooses some; a block is made
 * ready once, for all places that chose it. A row's columns are in an order of its own: what is always seen, then its
 * chosen blocks, ascending; so its result does not depend on its neighbours. */
#ifndef KG_ROUTED_H
#define KG_ROUTED_H

#include "rows.h"

#ifdef KG_AVAILABLE

#include <string.h>

/* Pages of a block. */
static inline int64_t step_of(const Attention *a, const Sequence *s) { return a->smallest << s->level; }

/* Floats as integers that have their order; both zeros are one. */
INLINE __m512i ordered(__m512 x)
{
    __m512i bits = _mm512_castps_si512(_mm512_add_ps(x, _mm512_setzero_ps()));
    __m512i below = _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff));
    return _mm512_xor_si512(bits, below);
}

/* How many of marks [n] are no less than `least`, in that order. */
AVX512 static int64_t at_least(const float *marks, int64_t n, int32_t least)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += LANES) {
        __m512i keys = ordered(_mm512_maskz_loadu_ps(lanes(n - i), marks + i));
        count += __builtin_popcount(_mm512_mask_cmpge_epi32_mask(lanes(n - i), keys, _mm512_set1_epi32(least)));
    }
    return count;
}

/* `first` plus the numbers, ascending, of the `count` greatest of marks [n]; of equal ones the earlier. count <= n. */
AVX512 static void greatest(const float *marks, int64_t n, int64_t count, int32_t first, int32_t *chosen)
{
    uint32_t found = 0; /* of the least that is chosen, shifted so that it is never negative: bit by bit */
    for (uint32_t bit = 1u << 31; bit; bit >>= 1)
        if (at_least(marks, n, (int32_t)((found | bit) ^ 0x80000000u)) >= count) found |= bit;
    const int32_t least = (int32_t)(found ^ 0x80000000u);
    int64_t equal = count - (least == INT32_MAX ? 0 : at_least(marks, n, least + 1));
    for (int64_t i = 0; i < n; i += LANES) {
        __m512i keys = ordered(_mm512_maskz_loadu_ps(lanes(n - i), marks + i));
        uint32_t above = _mm512_mask_cmpgt_epi32_mask(lanes(n - i), keys, _mm512_set1_epi32(least));
        uint32_t tied = _mm512_mask_cmpeq_epi32_mask(lanes(n - i), keys, _mm512_set1_epi32(least));
        for (; tied && equal; tied &= tied - 1, equal--) above |= tied & -tied;
        for (; above; above &= above - 1) *chosen++ = first + (int32_t)(i + __builtin_ctz(above));
    }
}

/* What each place of the item chooses of the blocks 1 … own - 2. */
AVX512 static void choose(const Attention *a, const Item *item, int64_t own, Scratch scratch)
{
    const Sequence *s = item->sequence;
    const int64_t group = group_of(a), d = a->d, step = step_of(a, s);
    const Block *context = a->table + s->first_block + s->mounted;
    const float *means = a->means + (s->level * a->kv_heads + item->kv_head) * a->cache_pages * d;
    for (int64_t r = 0; r < item->rows; r += group) {
        const int64_t query = s->first_query + query_of(a, item, r);
        const bf16 *q = a->q + (query * a->heads + item->kv_head * group) * d;
        for (int64_t i = 0; i < d; i += LANES) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t head = 0; head < group; head++) sum = _mm512_add_ps(sum, load16(q + head * d + i));
            _mm512_storeu_ps(scratch.sought + i, sum);
        }
        for (int64_t b = 1; b < own - 1; b++) {
            const float *mean = means + context[(b + 1) * step - 1].number * d;
            __m512 sum = _mm512_setzero_ps();
            for (int64_t i = 0; i < d; i += LANES)
                sum = _mm512_fmadd_ps(_mm512_loadu_ps(scratch.sought + i), _mm512_loadu_ps(mean + i), sum);
            scratch.marks[b - 1] = _mm512_reduce_add_ps(sum);
        }
        greatest(scratch.marks, own - 2, s->chosen, 1, scratch.choice + r / group * s->chosen);
    }
}

/* Those of the item's places that chose this block, behind what their cursors have passed. */
static int64_t find_choosers(const Sequence *s, int64_t places, int64_t block, Scratch scratch)
{
    int64_t found = 0;
    for (int32_t p = 0; p < places; p++)
        if (scratch.cursor[p] < s->chosen && scratch.choice[p * s->chosen + scratch.cursor[p]] == block)
            scratch.choosers[found++] = p;
    for (int64_t i = 0; i < found; i++) scratch.cursor[scratch.choosers[i]]++;
    return found;
}

static void rewind_cursors(int64_t places, Scratch scratch)
{
    memset(scratch.cursor, 0, (size_t)places * sizeof(int32_t));
}

/* The pages of all blocks that anybody chose, in order; returns how many. */
static int64_t list_far(const Attention *a, const Item *item, int64_t own, Scratch scratch)
{
    const Sequence *s = item->sequence;
    const int64_t places = item->rows / group_of(a), step = step_of(a, s);
    const Block *context = a->table + s->first_block + s->mounted;
    int64_t pages = 0;
    rewind_cursors(places, scratch);
    for (int64_t block = 1; block < own - 1; block++)
        if (find_choosers(s, places, block, scratch)) {
            memcpy(scratch.far + pages, context + block * step, (size_t)step * sizeof(Block));
            pages += step;
        }
    return pages;
}

/* A block's pages with the rows of one place that chose it: their scores from `column` on, */
AVX512 static void score_place(const Attention *a, int64_t place, int64_t step, int64_t column, int64_t columns,
                               Scratch scratch)
{
    const int64_t group = group_of(a), tiles = (group + ROWS - 1) / ROWS;
    for (int64_t r = 0; r < group; r += FEW)
        score_pages(group - r, step, scratch.apart + (place * tiles + r / ROWS) * ROWS * a->d / 2 + r % ROWS,
                    scratch.block, a->d, scratch.scores + (place * group + r) * columns + column, columns);
}

/* or their values times the weights that lie there. */
AVX512 static void weigh_place(const Attention *a, int64_t place, int64_t step, int64_t column, int64_t columns,
                               Scratch scratch)
{
    const int64_t group = group_of(a);
    for (int64_t r = 0; r < group; r += FEW) {
        const int64_t row = place * group + r;
        weigh_pages(group - r, step, (const pair *)(scratch.scores + row * columns) + column / 2, scratch.block, a->d,
                    scratch.sums + row * a->d, columns);
    }
}

/* The chosen pages, block by block: their scores, or if `weighing` their values, for the places that chose them. */
AVX512 static void each_chosen(const Attention *a, const Item *item, int64_t own, int64_t near, int64_t pages,
                               int64_t columns, int weighing, Scratch scratch)
{
    const int64_t places = item->rows / group_of(a), step = step_of(a, item->sequence);
    const int64_t plane = weighing ? a->kv_heads + item->kv_head : item->kv_head;
    const Block *page = scratch.far, *end = scratch.far + pages;
    rewind_cursors(places, scratch);
    fetch(a, plane, page, NEXT, end);
    for (int64_t block = 1; block < own - 1; block++) {
        const int64_t found = find_choosers(item->sequence, places, block, scratch);
        for (int64_t p = 0; found && p < step; p++, page++) {
            pair *tile = scratch.block + p * PAGE / 2 * a->d;
            fetch(a, plane, page + NEXT, 1, end);
            if (weighing)
                value_tile(a, item->kv_head, page, scratch.steps, tile);
            else
                key_tile(a, item->kv_head, page, scratch.steps, tile);
        }
        for (int64_t i = 0; i < found; i++) {
            const int64_t place = scratch.choosers[i];
            const int64_t column = (near + (scratch.cursor[place] - 1) * step) * PAGE;
            (weighing ? weigh_place : score_place)(a, place, step, column, columns, scratch);
        }
    }
}

/* What all places of the item see; returns how many blocks. */
static int64_t list_near(const Attention *a, const Item *item, int64_t own, Block *near)
{
    const Sequence *s = item->sequence;
    const int64_t step = step_of(a, s), last = s->computed + query_of(a, item, item->rows - 1);
    const Block *mounted = a->table + s->first_block, *context = mounted + s->mounted;
    const int64_t beside = last / PAGE + 1 - (own - 1) * step;
    memcpy(near, mounted, (size_t)s->mounted * sizeof(Block));
    memcpy(near + s->mounted, context, (size_t)step * sizeof(Block));
    memcpy(near + s->mounted + step, context + (own - 1) * step, (size_t)beside * sizeof(Block));
    return s->mounted + step + beside;
}

static void pack_apart(const Attention *a, const Item *item, pair *out)
{
    const int64_t group = group_of(a), tiles = (group + ROWS - 1) / ROWS;
    for (int64_t r = 0; r < item->rows; r++)
        pack_query(a, item, r, out + (r / group * tiles + r % group / ROWS) * ROWS * (a->d / 2) + r % group % ROWS);
}

/* One work item. */
AVX512 static void attend_routed(const Attention *a, const Item *item, float *masses, Scratch scratch)
{
    const Sequence *s = item->sequence;
    const int64_t step = step_of(a, s), own = (s->computed + query_of(a, item, 0)) / (step * PAGE);
    const int64_t near = list_near(a, item, own, scratch.near), all = near + s->chosen * step, columns = all * PAGE;

    choose(a, item, own, scratch);
    const int64_t pages = list_far(a, item, own, scratch);
    pack_queries(a, item, scratch.queries);
    pack_apart(a, item, scratch.apart);
    score_blocks(a, item, scratch.near, near, columns, scratch);
    each_chosen(a, item, own, near, pages, columns, 0, scratch);
    softmax_rows(a, item, scratch.near, near, all, masses, scratch);
    memset(scratch.sums, 0, (size_t)(item->rows * a->d) * sizeof(float));
    weigh_blocks(a, item, scratch.near, near, columns, scratch);
    each_chosen(a, item, own, near, pages, columns, 1, scratch);
    store_sums(a, item, scratch.sums);
}

#endif
#endif
