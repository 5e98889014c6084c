/* What the native kernels share: bfloat16 in memory, float32 in vectors of 16.
 *
 * Everything is float32 until it is stored; attention rounds its weights as well, to multiply them with values. Nothing
 * depends on the number of threads or on the order in which they finish: a row's result is the same sum in the same
 * order, always.
 *
 * Plain C behind ctypes (native.py): neither Python nor torch is needed to build it. Only functions marked AVX512 use
 * those instructions, and kg_supported() tells whether they may be called.
 */
#ifndef KG_VECTORS_H
#define KG_VECTORS_H

#define KG_ABI 8 /* raised with every change of a signature; native.py expects the same number */

#if defined(__x86_64__) && ((defined(__clang__) && __clang_major__ >= 9) || (!defined(__clang__) && __GNUC__ >= 10))
#define KG_AVAILABLE 1 /* the compiler has the instructions; the processor is asked at run time */

#include <immintrin.h>
#include <stdint.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE static inline __attribute__((always_inline)) AVX512

enum {
    LANES = 16,          /* float32 numbers per vector */
    PARALLEL = 16 * 1024 /* results from which on a second thread is worth waking */
};

enum { DONE, BAD_INDEX, NO_MEMORY };

typedef uint16_t bf16;
typedef uint32_t __attribute__((may_alias)) pair; /* two bf16, neighbours along the axis that is summed over */

INLINE __m512 load16(const bf16 *from)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void store16(bf16 *to, __m512 x) { _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x)); }

/* 16 numbers of 8 bits. */
INLINE __m512 widen16(const int8_t *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

/* sum[i] += a[2i] b[2i] + a[2i+1] b[2i+1], where b is one pair for all lanes. */
INLINE __m512 multiply_add(__m512 sum, __m512i a, pair b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
}

/* e^x to about 1e-7; exactly 0 from -105 down, -inf included; infinite from 105 up; NaN stays NaN.
 * x = n ln2 + r with |r| <= ln2 / 2; e^r is a polynomial fitted for the least relative error there. */
INLINE __m512 exp16(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(105.0f), _mm512_max_ps(_mm512_set1_ps(-105.0f), x)); /* this order keeps NaN */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.442695041f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x); /* ln2 in two parts, the first with few bits */
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.381459879e-3f), r, _mm512_set1_ps(8.368716575e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.166838899e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.666652113e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.4999999404f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

#endif
#endif
