/* Eq. 1 on a paged cache: scores, softmax and sums of values, page by page, without gathering the pages first.
 *
 * One work item is a block of rows of one kv head of one sequence. A row is one query of one of the kv head's heads:
 * row r is query r / group of head r % group. Both products take pairs of bfloat16 numbers, neighbours along the axis
 * that is summed over; so each page's keys are transposed into a tile, and its values interleaved, once per block. */
#include "vectors.h"

#ifdef KG_AVAILABLE

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE = 16,            /* tokens per page: one vector of scores */
    ROWS = 8,             /* rows computed together: that many sums hide the latency of a multiplication */
    BLOCK = 64,           /* most rows of a work item, */
    SCRATCH = 256 * 1024, /* and most bytes of its scores, unless ROWS rows need more: they should stay in L2 */
    ITEMS = 16            /* work items wanted, so that all threads have work to the end */
};

typedef struct {
    const bf16 *q;        /* [sequences, n, heads, d] */
    const bf16 *kv;       /* [2, kv_heads, cache_pages, PAGE, d] */
    const int64_t *pages; /* [sequences, table] */
    const float *mask;    /* [sequences, n, table PAGE] */
    const float *phi;     /* [heads, sequences, known], or null */
    float *mass;          /* [sequences, known], added to */
    bf16 *out;            /* [sequences, n, heads, d] */
    int64_t sequences, n, heads, kv_heads, d, table, cache_pages, known;
} Attention;

/* What one work item needs besides its input; each part's size is in `reserve`. */
typedef struct {
    float *scores; /* [block, columns], and in place of each row later its weights as bf16 */
    float *sums;   /* [block, d]: weights times values */
    pair *queries; /* [block / ROWS, d / 2, ROWS] */
    pair *tile;    /* a page's keys as [d / 2, PAGE] or its values as [PAGE / 2, d] */
} Scratch;

/* Transposes 16 x 16 pairs: out[i][t] = in[t][i]. */
INLINE void transpose(const bf16 *in, int64_t stride, pair *out)
{
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(in + i * stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* lane l of r[i + k] becomes column 4 l + k of rows i to i + 3 */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int k = 0; k < 4; k++) { /* lanes 0 and 2, then 1 and 3, of all four */
        __m512i even[2] = {_mm512_shuffle_i32x4(r[k], r[4 + k], 0x88), _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88)};
        __m512i odd[2] = {_mm512_shuffle_i32x4(r[k], r[4 + k], 0xdd), _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xdd)};
        _mm512_storeu_si512(out + 16 * k, _mm512_shuffle_i32x4(even[0], even[1], 0x88));
        _mm512_storeu_si512(out + 16 * (4 + k), _mm512_shuffle_i32x4(odd[0], odd[1], 0x88));
        _mm512_storeu_si512(out + 16 * (8 + k), _mm512_shuffle_i32x4(even[0], even[1], 0xdd));
        _mm512_storeu_si512(out + 16 * (12 + k), _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd));
    }
}

/* Interleaves two tokens' values: out[i] = (a[i], b[i]). */
INLINE void interleave(const bf16 *a, const bf16 *b, int64_t d, pair *out)
{
    for (int64_t i = 0; i < d; i += LANES) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(a + i)));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(b + i)));
        _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

/* Products of `count` rows with one page's keys. */
INLINE void score(const int count, const pair *queries, const pair *keys, int64_t d, float *scores, int64_t stride)
{
    __m512 sum[ROWS];
    for (int r = 0; r < count; r++) sum[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < d / 2; i++) {
        __m512i key = _mm512_loadu_si512(keys + PAGE * i);
        for (int r = 0; r < count; r++) sum[r] = multiply_add(sum[r], key, queries[ROWS * i + r]);
    }
    for (int r = 0; r < count; r++) _mm512_storeu_ps(scores + r * stride, sum[r]);
}

/* sums += weights of `count` rows on one page times its values; weights lie `stride` pairs apart. */
INLINE void weigh(const int count, const pair *weights, const pair *values, int64_t d, float *sums, int64_t stride)
{
    for (int64_t i = 0; i < d; i += 2 * LANES) {
        __m512 low[ROWS], high[ROWS];
        for (int r = 0; r < count; r++) {
            low[r] = _mm512_loadu_ps(sums + r * d + i);
            high[r] = _mm512_loadu_ps(sums + r * d + i + LANES);
        }
        for (int p = 0; p < PAGE / 2; p++) {
            __m512i first = _mm512_loadu_si512(values + p * d + i);
            __m512i second = _mm512_loadu_si512(values + p * d + i + LANES);
            for (int r = 0; r < count; r++) {
                low[r] = multiply_add(low[r], first, weights[r * stride + p]);
                high[r] = multiply_add(high[r], second, weights[r * stride + p]);
            }
        }
        for (int r = 0; r < count; r++) {
            _mm512_storeu_ps(sums + r * d + i, low[r]);
            _mm512_storeu_ps(sums + r * d + i + LANES, high[r]);
        }
    }
}

/* A function per number of rows, so that their sums stay in registers. */
#define FOR_ROWS(name)                                                                                            \
    AVX512 static void name##_rows(int64_t count, const pair *a, const pair *b, int64_t d, float *out, int64_t s) \
    {                                                                                                             \
        switch (count) {                                                                                          \
        case 1: name(1, a, b, d, out, s); break;                                                                  \
        case 2: name(2, a, b, d, out, s); break;                                                                  \
        case 3: name(3, a, b, d, out, s); break;                                                                  \
        case 4: name(4, a, b, d, out, s); break;                                                                  \
        case 5: name(5, a, b, d, out, s); break;                                                                  \
        case 6: name(6, a, b, d, out, s); break;                                                                  \
        case 7: name(7, a, b, d, out, s); break;                                                                  \
        default: name(ROWS, a, b, d, out, s);                                                                     \
        }                                                                                                         \
    }
FOR_ROWS(score)
FOR_ROWS(weigh)

INLINE __mmask16 lanes(int64_t count) { return (__mmask16)(count >= LANES ? 0xffff : (1 << count) - 1); }

/* Products -> weights. Those that add up to one are bf16, in place of the row's first half; if `mass` is not null, it
 * gets the first `known` of them in float32. A row that may look nowhere comes out NaN, as in torch. */
AVX512 static void softmax(float *row, int64_t columns, const float *mask, const float *phi, int64_t known, float scale,
                           float *mass)
{
    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t c = 0; c < columns; c += LANES) {
        __m512 s = _mm512_loadu_ps(row + c);
        if (phi && c < known) s = _mm512_add_ps(s, _mm512_maskz_loadu_ps(lanes(known - c), phi + c));
        s = _mm512_fmadd_ps(s, _mm512_set1_ps(scale), _mm512_loadu_ps(mask + c));
        _mm512_storeu_ps(row + c, s);
        top = _mm512_max_ps(top, s);
    }
    top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (int64_t c = 0; c < columns; c += LANES) {
        __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(row + c), top));
        _mm512_storeu_ps(row + c, e);
        sum = _mm512_add_ps(sum, e);
    }
    __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (int64_t c = 0; c < columns; c += LANES) {
        __m512 weight = _mm512_mul_ps(_mm512_loadu_ps(row + c), share);
        if (mass && c < known) _mm512_mask_storeu_ps(mass + c, lanes(known - c), weight);
        store16((bf16 *)row + c, weight);
    }
}

/* How many pages, from the first, hold every column that queries [first, last] may look at. */
AVX512 static int64_t visible_pages(const float *mask, int64_t first, int64_t last, int64_t pages)
{
    const __m512 never = _mm512_set1_ps(-INFINITY);
    for (int64_t page = pages; page > 0; page--)
        for (int64_t i = first; i <= last; i++)
            if (_mm512_cmpneq_ps_mask(_mm512_loadu_ps(mask + (i * pages + page - 1) * PAGE), never)) return page;
    return 0;
}

static void pack_queries(const Attention *a, int64_t sequence, int64_t kv_head, int64_t first, int64_t rows, pair *out)
{
    int64_t group = a->heads / a->kv_heads, pairs = a->d / 2;
    for (int64_t r = 0; r < rows; r++) {
        int64_t query = sequence * a->n + (first + r) / group, head = kv_head * group + (first + r) % group;
        const pair *from = (const pair *)(a->q + (query * a->heads + head) * a->d);
        pair *to = out + r / ROWS * ROWS * pairs + r % ROWS;
        for (int64_t i = 0; i < pairs; i++) to[ROWS * i] = from[i];
    }
}

/* Rows [first, first + rows) of one kv head of one sequence. What the sequence's last query gives to known columns goes
 * to `masses` [sequences, heads, known]. */
AVX512 static void attend(const Attention *a, int64_t sequence, int64_t kv_head, int64_t first, int64_t rows,
                          float *masses, Scratch s)
{
    const int64_t group = a->heads / a->kv_heads, d = a->d, plane = a->cache_pages * PAGE * d;
    const float *mask = a->mask + sequence * a->n * a->table * PAGE;
    const int64_t *pages = a->pages + sequence * a->table;
    const int64_t visible = visible_pages(mask, first / group, (first + rows - 1) / group, a->table);
    const int64_t columns = visible * PAGE;
    const float scale = 1 / sqrtf((float)d);
    const bf16 *keys = a->kv + kv_head * plane, *values = keys + a->kv_heads * plane;

    pack_queries(a, sequence, kv_head, first, rows, s.queries);
    for (int64_t p = 0; p < visible; p++) {
        for (int64_t i = 0; i < d / 2; i += 16) transpose(keys + pages[p] * PAGE * d + 2 * i, d, s.tile + PAGE * i);
        for (int64_t r = 0; r < rows; r += ROWS)
            score_rows(rows - r, s.queries + r * d / 2, s.tile, d, s.scores + r * columns + p * PAGE, columns);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t query = (first + r) / group, head = kv_head * group + (first + r) % group;
        const float *phi = a->phi ? a->phi + (head * a->sequences + sequence) * a->known : NULL;
        float *mass = query == a->n - 1 ? masses + (sequence * a->heads + head) * a->known : NULL;
        softmax(s.scores + r * columns, columns, mask + query * a->table * PAGE, phi, a->known, scale, mass);
    }
    memset(s.sums, 0, (size_t)(rows * d) * sizeof(float));
    for (int64_t p = 0; p < visible; p++) {
        const bf16 *page = values + pages[p] * PAGE * d;
        for (int64_t t = 0; t < PAGE; t += 2) interleave(page + t * d, page + (t + 1) * d, d, s.tile + t / 2 * d);
        for (int64_t r = 0; r < rows; r += ROWS) {
            const pair *weights = (const pair *)(s.scores + r * columns) + p * PAGE / 2;
            weigh_rows(rows - r, weights, s.tile, d, s.sums + r * d, columns);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t query = sequence * a->n + (first + r) / group, head = kv_head * group + (first + r) % group;
        for (int64_t i = 0; i < d; i += LANES)
            store16(a->out + (query * a->heads + head) * d + i, _mm512_loadu_ps(s.sums + r * d + i));
    }
}

/* Rows per work item: many share the preparation of a page, few spread the work evenly. */
static int64_t block_rows(const Attention *a)
{
    int64_t rows = a->n * a->heads / a->kv_heads, block = BLOCK;
    while (block > ROWS && block * a->table * PAGE * (int64_t)sizeof(float) > SCRATCH) block /= 2;
    while (block > 2 * ROWS && a->sequences * a->kv_heads * ((rows + block - 1) / block) < ITEMS) block /= 2;
    return block;
}

/* One thread's scratch memory; `*memory` is what to free. */
static int reserve(const Attention *a, int64_t block, Scratch *s, void **memory)
{
    size_t scores = (size_t)(block * a->table * PAGE), sums = (size_t)(block * a->d), tile = (size_t)(PAGE / 2 * a->d);
    *memory = malloc((scores + sums + sums / 2 + tile) * sizeof(float));
    s->scores = *memory;
    s->sums = s->scores + scores;
    s->queries = (pair *)(s->sums + sums);
    s->tile = s->queries + sums / 2;
    return *memory != NULL;
}

static int attend_all(const Attention *a, float *masses)
{
    const int64_t rows = a->n * a->heads / a->kv_heads, block = block_rows(a), blocks = (rows + block - 1) / block;
    const int64_t heads = a->sequences * a->kv_heads, work = heads * rows * a->table * PAGE;
    int failed = 0;
#pragma omp parallel if (heads * blocks > 1 && work >= PARALLEL / 4)
    {
        Scratch scratch;
        void *memory;
        int ready = reserve(a, block, &scratch, &memory);
#pragma omp for schedule(dynamic)
        for (int64_t item = 0; item < heads * blocks; item++) {
            int64_t head = item % heads, first = (blocks - 1 - item / heads) * block; /* late rows see most: first */
            int64_t count = rows - first < block ? rows - first : block;
            if (ready) attend(a, head / a->kv_heads, head % a->kv_heads, first, count, masses, scratch);
        }
        free(memory);
        if (!ready) {
#pragma omp atomic write
            failed = 1;
        }
    }
    return failed ? NO_MEMORY : DONE;
}

static void add_masses(const Attention *a, const float *masses)
{
    for (int64_t s = 0; s < a->sequences; s++)
        for (int64_t h = 0; h < a->heads; h++)
            for (int64_t c = 0; c < a->known; c++)
                a->mass[s * a->known + c] += masses[(s * a->heads + h) * a->known + c];
}

/* See kan.attention.Kernel; fields as in `Attention`. */
int kg_attention(const bf16 *q, const bf16 *kv, const int64_t *pages, const float *mask, const float *phi, float *mass,
                 bf16 *out, int64_t sequences, int64_t n, int64_t heads, int64_t kv_heads, int64_t d, int64_t table,
                 int64_t cache_pages, int64_t known)
{
    const Attention a = {q, kv, pages, mask, phi, mass, out,
                         sequences, n, heads, kv_heads, d, table, cache_pages, known};
    for (int64_t i = 0; i < sequences * table; i++)
        if (pages[i] < 0 || pages[i] >= cache_pages) return BAD_INDEX;
    float *masses = calloc((size_t)(sequences * heads * known + 1), sizeof(float)); /* columns nobody sees stay 0 */
    if (masses == NULL) return NO_MEMORY;
    int result = attend_all(&a, masses);
    if (result == DONE) add_masses(&a, masses);
    free(masses);
    return result;
}

#endif
