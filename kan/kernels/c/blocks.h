/* What one call of attention is given, and its blocks of keys and values as tiles. A block is a page, or PAGE tokens of a
 * small one, whose numbers have 8 or 4 bits (kan/kernels/small_pages.py). */
#ifndef KG_BLOCKS_H
#define KG_BLOCKS_H

#include "tiles.h"

#ifdef KG_AVAILABLE

/* Both structures are rows of int64 arrays: see native_attention.py. */
typedef struct {
    int64_t number; /* in the cache, counted in blocks of its kind */
    int64_t tokens; /* how many it holds; of the context's: how many lie before it */
    int64_t part;   /* whose they are, among the parts of all sequences; -1: the context's */
    int64_t small;  /* whether it is of a small page */
} Block;

typedef struct {
    int64_t first_query, queries; /* in q and out */
    int64_t first_block, blocks;  /* in the table: the mounted ones, then the context's */
    int64_t mounted;              /* how many are mounted */
    int64_t computed;             /* context tokens before the first query */
    int64_t level;                /* of the blocks that its queries choose from; -1: they see everything */
    int64_t chosen;               /* how many of them a query chooses */
    int64_t ends;                 /* whether what the last query gives to mounted parts is asked for */
} Sequence;

typedef struct {
    const bf16 *q;             /* [queries, heads, d] */
    const bf16 *kv;            /* [2, kv_heads, cache_pages, PAGE, d]; small blocks lie in the same memory */
    const bf16 *key_steps;     /* [kv_heads, cache_pages, d]; of 4 bits [kv_heads, blocks, 2, d] */
    const bf16 *value_steps;   /* [kv_heads, blocks, PAGE]; of 4 bits [kv_heads, blocks, d / GROUP, 2, PAGE] */
    const Sequence *sequences; /* [count] */
    const Block *table;        /* blocks of all sequences */
    const float *phi;          /* [heads, parts], or null */
    float *mass;               /* [parts], added to */
    bf16 *out;                 /* [queries, heads, d] */
    const float *means;        /* [levels, kv_heads, cache_pages, d]: of the keys of blocks, at their last pages */
    int64_t count, heads, kv_heads, d, cache_pages, parts;
    int64_t levels, smallest; /* a block of level l has smallest << l pages */
    int64_t bits;             /* of a number in a small page: 8 or 4 */
} Attention;

enum { WHOLE = 8 * sizeof(bf16) /* bits of a number in an ordinary page */ };

/* How many blocks a small page has: it takes the memory of an ordinary one. */
static inline int64_t in_page(const Attention *a) { return WHOLE / a->bits; }

INLINE int64_t bytes_of(const Attention *a, const Block *block)
{
    return PAGE * a->d * (block->small ? a->bits : WHOLE) / 8;
}

/* Where a block's numbers lie, in the plane of one head's keys or values. */
INLINE const char *numbers(const Attention *a, int64_t plane, const Block *block)
{
    return (const char *)(a->kv + plane * a->cache_pages * PAGE * a->d) + block->number * bytes_of(a, block);
}

/* Has these blocks fetched, of those before `end`: they lie anywhere, and the processor cannot guess where. */
INLINE void fetch(const Attention *a, int64_t plane, const Block *first, int64_t count, const Block *end)
{
    for (const Block *block = first; block < end && block < first + count; block++) {
        const char *from = numbers(a, plane, block);
        for (int64_t i = 0; i < bytes_of(a, block); i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
    }
}

INLINE void widen_steps(const bf16 *from, int64_t count, float *to)
{
    for (int64_t i = 0; i < count; i += LANES) _mm512_storeu_ps(to + i, load16(from + i));
}

/* A block's keys as a tile [d / 2, PAGE]; `steps` has room for those of a small block [2, d]. */
AVX512 static void key_tile(const Attention *a, int64_t kv_head, const Block *block, float *steps, pair *tile)
{
    const int64_t d = a->d;
    const char *from = numbers(a, kv_head, block);
    if (block->small && a->bits == 8) {
        widen_steps(a->key_steps + (kv_head * a->cache_pages + block->number / in_page(a)) * d, d, steps);
        widen_keys((const int8_t *)from, steps, d, tile);
    } else if (block->small) {
        widen_steps(a->key_steps + (kv_head * a->cache_pages * in_page(a) + block->number) * 2 * d, 2 * d, steps);
        widen_packed_keys((const uint8_t *)from, steps, d, tile);
    } else {
        for (int64_t i = 0; i < d / 2; i += 16) transpose((const bf16 *)from + 2 * i, d, tile + PAGE * i);
    }
}

/* A block's values as a tile [PAGE / 2, d]; those of 8 bits without their scales. `steps` as above. */
AVX512 static void value_tile(const Attention *a, int64_t kv_head, const Block *block, float *steps, pair *tile)
{
    const int64_t d = a->d;
    const char *from = numbers(a, a->kv_heads + kv_head, block);
    if (block->small && a->bits == 8) {
        widen_values((const int8_t *)from, d, tile);
    } else if (block->small) {
        const int64_t count = d / GROUP * 2 * PAGE;
        widen_steps(a->value_steps + (kv_head * a->cache_pages * in_page(a) + block->number) * count, count, steps);
        widen_packed_values((const uint8_t *)from, steps, d, tile);
    } else {
        const bf16 *page = (const bf16 *)from;
        for (int64_t t = 0; t < PAGE; t += 2) interleave(page + t * d, page + (t + 1) * d, d, tile + t / 2 * d);
    }
}

#endif
#endif
