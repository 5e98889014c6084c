/* Attention's two products, a page at a time: queries with its keys, weights with its values.
 *
 * Both take pairs of bfloat16 numbers, neighbours along the axis that is summed over; so a page's keys are transposed
 * into a tile, and its values interleaved, once for many rows. */
#ifndef KG_TILES_H
#define KG_TILES_H

#include "vectors.h"

#ifdef KG_AVAILABLE

enum {
    PAGE = 16, /* tokens per page: one vector of scores */
    ROWS = 8,  /* rows computed together: that many sums hide the latency of a multiplication */
    GROUP = 32 /* channels of values of 4 bits that have steps in common */
};

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

/* The two numbers there, in turn. */
INLINE __m512 two(const float *from)
{
    return _mm512_broadcast_f32x2(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)from)));
}

/* Numbers of 8 bits that lie as a tile does, times `factor`, the same for every other pair of them. */
INLINE void widen_pairs(const int8_t *in, __m512 factor, pair *out)
{
    __m512 low = _mm512_mul_ps(widen16(in), factor), high = _mm512_mul_ps(widen16(in + LANES), factor);
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* A small block's keys of 8 bits [d / 2, PAGE, 2], times their channels' scales. */
INLINE void widen_keys(const int8_t *in, const float *scales, int64_t d, pair *out)
{
    for (int64_t i = 0; i < d / 2; i++) widen_pairs(in + 2 * PAGE * i, two(scales + 2 * i), out + PAGE * i);
}

/* A small block's values of 8 bits [PAGE / 2, d, 2]; their scales go into the weights. */
INLINE void widen_values(const int8_t *in, int64_t d, pair *out)
{
    for (int64_t i = 0; i < PAGE / 2 * d; i += LANES) {
        __m512 low = widen16(in + 2 * i), high = widen16(in + 2 * i + LANES);
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* A small block's numbers of 4 bits, in vectors of as many pairs as `in` has bytes for: times `scale`, plus `least`,
 * each the same for every other pair. The low four bits of LANES bytes come before their high ones. */
INLINE void widen_packed(const uint8_t *in, __m512 scale, __m512 least, pair *out)
{
    __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)in));
    __m512 low = _mm512_cvtepi32_ps(_mm512_and_si512(both, _mm512_set1_epi32(15)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_srli_epi32(both, 4));
    low = _mm512_fmadd_ps(low, scale, least);
    high = _mm512_fmadd_ps(high, scale, least);
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* A small block's keys of 4 bits [d / 2, PAGE, 2]; steps: scales [d], leasts [d]. */
INLINE void widen_packed_keys(const uint8_t *in, const float *steps, int64_t d, pair *out)
{
    for (int64_t i = 0; i < d / 2; i++)
        widen_packed(in + PAGE * i, two(steps + 2 * i), two(steps + d + 2 * i), out + PAGE * i);
}

/* A small block's values of 4 bits [PAGE / 2, d, 2]; steps: for each GROUP of channels scales [PAGE], leasts [PAGE]. */
INLINE void widen_packed_values(const uint8_t *in, const float *steps, int64_t d, pair *out)
{
    for (int64_t g = 0; g < d / GROUP; g++)
        for (int64_t p = 0; p < PAGE / 2; p++) {
            const float *scale = steps + 2 * PAGE * g + 2 * p;
            for (int64_t i = p * d + g * GROUP; i < p * d + (g + 1) * GROUP; i += LANES)
                widen_packed(in + i, two(scale), two(scale + PAGE), out + i);
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

/* The same for few rows with many pages, whose tiles lie one behind the other: there several pages, or SPAN vectors of
 * the values' width, give the sums that hide the latency. */
enum { FEW = 4, SPAN = 4 };

INLINE void score_span(const int count, const int pages, const pair *queries, const pair *keys, int64_t d,
                       float *scores, int64_t stride)
{
    __m512 sum[FEW][SPAN];
    for (int r = 0; r < count; r++)
        for (int p = 0; p < pages; p++) sum[r][p] = _mm512_setzero_ps();
    for (int64_t i = 0; i < d / 2; i++)
        for (int p = 0; p < pages; p++) {
            __m512i key = _mm512_loadu_si512(keys + (p * d / 2 + i) * PAGE);
            for (int r = 0; r < count; r++) sum[r][p] = multiply_add(sum[r][p], key, queries[ROWS * i + r]);
        }
    for (int r = 0; r < count; r++)
        for (int p = 0; p < pages; p++) _mm512_storeu_ps(scores + r * stride + p * PAGE, sum[r][p]);
}

INLINE void score_few(const int count, int64_t pages, const pair *queries, const pair *keys, int64_t d, float *scores,
                      int64_t stride)
{
    int64_t p = 0;
    for (; p + SPAN <= pages; p += SPAN)
        score_span(count, SPAN, queries, keys + p * PAGE * d / 2, d, scores + p * PAGE, stride);
    for (; p < pages; p++) score_span(count, 1, queries, keys + p * PAGE * d / 2, d, scores + p * PAGE, stride);
}

INLINE void weigh_span(const int count, const int vectors, int64_t pairs, const pair *weights, const pair *values,
                       int64_t d, float *sums, int64_t stride)
{
    __m512 sum[FEW][SPAN];
    for (int r = 0; r < count; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_loadu_ps(sums + r * d + v * LANES);
    for (int64_t p = 0; p < pairs; p++)
        for (int v = 0; v < vectors; v++) {
            __m512i value = _mm512_loadu_si512(values + p * d + v * LANES);
            for (int r = 0; r < count; r++) sum[r][v] = multiply_add(sum[r][v], value, weights[r * stride + p]);
        }
    for (int r = 0; r < count; r++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(sums + r * d + v * LANES, sum[r][v]);
}

INLINE void weigh_few(const int count, int64_t pages, const pair *weights, const pair *values, int64_t d, float *sums,
                      int64_t stride)
{
    int64_t i = 0;
    for (; i + SPAN * LANES <= d; i += SPAN * LANES)
        weigh_span(count, SPAN, pages * PAGE / 2, weights, values + i, d, sums + i, stride);
    for (; i < d; i += 2 * LANES) weigh_span(count, 2, pages * PAGE / 2, weights, values + i, d, sums + i, stride);
}

#define FOR_FEW(name)                                                                                      \
    AVX512 static void name##_pages(int64_t count, int64_t pages, const pair *a, const pair *b, int64_t d, \
                                    float *out, int64_t s)                                                 \
    {                                                                                                      \
        switch (count) {                                                                                   \
        case 1: name##_few(1, pages, a, b, d, out, s); break;                                              \
        case 2: name##_few(2, pages, a, b, d, out, s); break;                                              \
        case 3: name##_few(3, pages, a, b, d, out, s); break;                                              \
        default: name##_few(FEW, pages, a, b, d, out, s);                                                  \
        }                                                                                                  \
    }
FOR_FEW(score)
FOR_FEW(weigh)

#endif
#endif
