/* Eq. 1 on a paged cache: scores, softmax and sums of values, block by block, without gathering them first. A block is a
 * page, or PAGE tokens of a small one, whose numbers have 8 bits (kan/kernels/small_pages.py).
 *
 * One work item is a block of rows of one kv head of one sequence. A row is one query of one of the kv head's heads:
 * row r is query r / group of head r % group. A query sees all mounted tokens, and of its context everything up to
 * itself. */
#include "blocks.h"

#ifdef KG_AVAILABLE

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = 64,           /* most rows of a work item, */
    SCRATCH = 256 * 1024, /* and most bytes of its scores, unless ROWS rows need more: they should stay in L2 */
    ITEMS = 16,           /* work items wanted, so that all threads have work to the end */
    NEXT = 6              /* blocks that memory is asked for ahead of their use */
};

typedef struct {
    const Sequence *sequence;
    int64_t kv_head, first, rows;
} Item;

/* What one work item needs besides its input; each part's size is in `reserve`. */
typedef struct {
    float *scores; /* [block, columns], and in place of each row later its weights as bf16 */
    float *sums;   /* [block, d]: weights times values */
    pair *queries; /* [block / ROWS, d / 2, ROWS] */
    float *scales; /* [d]: of a small page's keys */
    pair *tile;    /* a block's keys as [d / 2, PAGE] or its values as [PAGE / 2, d] */
} Scratch;

INLINE __mmask16 lanes(int64_t count) { return (__mmask16)(count >= LANES ? 0xffff : (1 << (count < 0 ? 0 : count)) - 1); }

/* The tokens of the sequence's block b that a query sees. */
INLINE __mmask16 seen(const Sequence *s, const Block *blocks, int64_t b, int64_t query)
{
    return lanes(b < s->mounted ? blocks[b].tokens : s->computed + query + 1 - (b - s->mounted) * PAGE);
}

/* How many of a sequence's blocks, from the first, hold every column that a query and those before it see. */
static int64_t visible_blocks(const Sequence *s, int64_t query)
{
    return s->mounted + (s->computed + query + PAGE) / PAGE;
}

/* Products of one query -> weights over `visible` blocks. Those that add up to one are bf16, in place of the row's first
 * half, times their tokens' scale where the block is small; if `mass` [parts] is not null, it gets each mounted part's in
 * float32. `phi` [parts] may be null; value_scales [cache_pages, SMALL * PAGE]. */
AVX512 static void softmax(float *row, const Sequence *s, const Block *blocks, int64_t query, int64_t visible,
                           const float *phi, const bf16 *value_scales, float scale, float *mass)
{
    const __m512 never = _mm512_set1_ps(-INFINITY);
    __m512 top = never, sum = _mm512_setzero_ps();
    for (int64_t b = 0; b < visible; b++) {
        __m512 x = _mm512_loadu_ps(row + b * PAGE);
        if (phi && blocks[b].part >= 0) x = _mm512_add_ps(x, _mm512_set1_ps(phi[blocks[b].part]));
        x = _mm512_mask_mul_ps(never, seen(s, blocks, b, query), x, _mm512_set1_ps(scale));
        _mm512_storeu_ps(row + b * PAGE, x);
        top = _mm512_max_ps(top, x);
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int64_t b = 0; b < visible; b++) {
        __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(row + b * PAGE), top));
        _mm512_storeu_ps(row + b * PAGE, e);
        sum = _mm512_add_ps(sum, e);
    }
    __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t b = 0; b < visible; b++) {
        __m512 weight = _mm512_mul_ps(_mm512_loadu_ps(row + b * PAGE), share);
        if (mass && blocks[b].part >= 0) mass[blocks[b].part] += _mm512_reduce_add_ps(weight);
        if (blocks[b].small) weight = _mm512_mul_ps(weight, load16(value_scales + blocks[b].number * PAGE));
        store16((bf16 *)row + b * PAGE, weight);
    }
}

static void pack_queries(const Attention *a, const Item *item, pair *out)
{
    int64_t group = a->heads / a->kv_heads, pairs = a->d / 2;
    for (int64_t r = 0; r < item->rows; r++) {
        int64_t query = (item->first + r) / group, head = item->kv_head * group + (item->first + r) % group;
        const pair *from = (const pair *)(a->q + ((item->sequence->first_query + query) * a->heads + head) * a->d);
        pair *to = out + r / ROWS * ROWS * pairs + r % ROWS;
        for (int64_t i = 0; i < pairs; i++) to[ROWS * i] = from[i];
    }
}

/* One work item. What a sequence's last query gives to parts goes to `masses` [heads, parts]. */
AVX512 static void attend(const Attention *a, const Item *item, float *masses, Scratch scratch)
{
    const Sequence *s = item->sequence;
    const Block *blocks = a->table + s->first_block;
    const int64_t group = a->heads / a->kv_heads, d = a->d, rows = item->rows;
    const int64_t visible = visible_blocks(s, (item->first + rows - 1) / group), columns = visible * PAGE;
    const bf16 *value_scales = a->value_scales + item->kv_head * a->cache_pages * SMALL * PAGE;
    const float scale = 1 / sqrtf((float)d);
    const Block *end = blocks + visible;

    fetch(a, item->kv_head, blocks, NEXT, end);
    pack_queries(a, item, scratch.queries);
    for (int64_t b = 0; b < visible; b++) {
        fetch(a, item->kv_head, blocks + b + NEXT, 1, end);
        key_tile(a, item->kv_head, blocks + b, scratch.scales, scratch.tile);
        for (int64_t r = 0; r < rows; r += ROWS)
            score_rows(rows - r, scratch.queries + r * d / 2, scratch.tile, d, scratch.scores + r * columns + b * PAGE,
                       columns);
    }
    fetch(a, a->kv_heads + item->kv_head, blocks, NEXT, end);
    for (int64_t r = 0; r < rows; r++) {
        int64_t query = (item->first + r) / group, head = item->kv_head * group + (item->first + r) % group;
        const float *phi = a->phi ? a->phi + head * a->parts : NULL;
        float *mass = query == s->queries - 1 ? masses + head * a->parts : NULL;
        softmax(scratch.scores + r * columns, s, blocks, query, visible, phi, value_scales, scale, mass);
    }
    memset(scratch.sums, 0, (size_t)(rows * d) * sizeof(float));
    for (int64_t b = 0; b < visible; b++) {
        fetch(a, a->kv_heads + item->kv_head, blocks + b + NEXT, 1, end);
        value_tile(a, item->kv_head, blocks + b, scratch.tile);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const pair *weights = (const pair *)(scratch.scores + r * columns) + b * PAGE / 2;
            weigh_rows(rows - r, weights, scratch.tile, d, scratch.sums + r * d, columns);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t query = s->first_query + (item->first + r) / group;
        bf16 *out = a->out + (query * a->heads + item->kv_head * group + (item->first + r) % group) * d;
        for (int64_t i = 0; i < d; i += LANES) store16(out + i, _mm512_loadu_ps(scratch.sums + r * d + i));
    }
}

/* Work items of `block` rows at most; returns how many, and writes them unless `items` is null. The last sequences and
 * their late rows come first: they have the most to do. */
static int64_t divide(const Attention *a, int64_t block, Item *items)
{
    int64_t found = 0;
    for (const Sequence *s = a->sequences + a->count; s-- > a->sequences;) {
        const int64_t rows = s->queries * (a->heads / a->kv_heads);
        for (int64_t first = (rows - 1) / block * block; first >= 0; first -= block)
            for (int64_t head = 0; head < a->kv_heads; head++, found++)
                if (items) items[found] = (Item){s, head, first, rows - first < block ? rows - first : block};
    }
    return found;
}

static int64_t longest(const Attention *a)
{
    int64_t blocks = 0;
    for (int64_t i = 0; i < a->count; i++)
        if (a->sequences[i].blocks > blocks) blocks = a->sequences[i].blocks;
    return blocks * PAGE;
}

/* Rows per work item: many share the preparation of a page, few spread the work evenly. */
static int64_t block_rows(const Attention *a)
{
    int64_t block = BLOCK;
    while (block > ROWS && block * longest(a) * (int64_t)sizeof(float) > SCRATCH) block /= 2;
    while (block > 2 * ROWS && divide(a, block, NULL) < ITEMS) block /= 2;
    return block;
}

/* One thread's scratch memory; `*memory` is what to free. */
static int reserve(const Attention *a, int64_t block, Scratch *s, void **memory)
{
    size_t scores = (size_t)(block * longest(a)), sums = (size_t)(block * a->d), tile = (size_t)(PAGE / 2 * a->d);
    const size_t line = 64, size = (scores + sums + sums / 2 + (size_t)a->d + tile) * sizeof(float);
    *memory = aligned_alloc(line, (size + line - 1) / line * line); /* so that no vector lies in two lines */
    s->scores = *memory;
    s->sums = s->scores + scores;
    s->queries = (pair *)(s->sums + sums);
    s->scales = (float *)(s->queries + sums / 2);
    s->tile = (pair *)(s->scales + a->d);
    return *memory != NULL;
}

static int attend_all(const Attention *a, int64_t block, const Item *items, int64_t count, float *masses)
{
    int64_t work = 0;
    int failed = 0;
    for (int64_t i = 0; i < count; i++) work += items[i].rows * items[i].sequence->blocks * PAGE;
#pragma omp parallel if (count > 1 && work >= PARALLEL / 4)
    {
        Scratch scratch;
        void *memory;
        int ready = reserve(a, block, &scratch, &memory);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count; i++)
            if (ready) attend(a, items + i, masses, scratch);
        free(memory);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
    }
    return failed ? NO_MEMORY : DONE;
}

static int in_the_cache(const Attention *a)
{
    for (const Sequence *s = a->sequences; s < a->sequences + a->count; s++)
        for (const Block *block = a->table + s->first_block; block < a->table + s->first_block + s->blocks; block++)
            if (block->number < 0 || block->number / (block->small ? SMALL : 1) >= a->cache_pages) return 0;
    return 1;
}

static void add_masses(const Attention *a, const float *masses)
{
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t p = 0; p < a->parts; p++) a->mass[p] += masses[h * a->parts + p];
}

int kg_page_size(void) { return PAGE; }

/* Fields as in `Attention`. */
int kg_attention(const bf16 *q, const bf16 *kv, const bf16 *key_scales, const bf16 *value_scales,
                 const Sequence *sequences, const Block *table, const float *phi, float *mass, bf16 *out, int64_t count,
                 int64_t heads, int64_t kv_heads, int64_t d, int64_t cache_pages, int64_t parts)
{
    const Attention a = {q,   kv,    key_scales, value_scales, sequences, table,       phi,  mass,
                         out, count, heads,      kv_heads,     d,         cache_pages, parts};
    if (!in_the_cache(&a)) return BAD_INDEX;
    const int64_t block = block_rows(&a), items = divide(&a, block, NULL);
    float *masses = calloc((size_t)(heads * parts + 1), sizeof(float));
    Item *item = malloc((size_t)items * sizeof(Item));
    int result = NO_MEMORY;
    if (masses && item) {
        divide(&a, block, item);
        result = attend_all(&a, block, item, items, masses);
    }
    if (result == DONE) add_masses(&a, masses);
    free(item);
    free(masses);
    return result;
}

#endif
