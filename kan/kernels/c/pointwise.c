/* The native kernels that treat each row on its own: RMSNorm, SwiGLU, and RoPE with the write into the paged cache.
 * Widths are multiples of 16, head dimensions of 32. */
#include "vectors.h"

int kg_abi(void) { return KG_ABI; }

#ifdef KG_AVAILABLE

#include <math.h>
#include <string.h>

int kg_supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}

AVX512 static void norm_row(const bf16 *x, const bf16 *weight, int64_t width, float eps, bf16 *out)
{
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 v = load16(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + eps));
    for (int64_t i = 0; i < width; i += LANES)
        store16(out + i, _mm512_mul_ps(_mm512_mul_ps(load16(x + i), scale), load16(weight + i)));
}

/* x, out [rows, width]; weight [width] */
void kg_rms_norm(const bf16 *x, const bf16 *weight, int64_t rows, int64_t width, float eps, bf16 *out)
{
#pragma omp parallel for schedule(static) if (rows * width >= 4 * PARALLEL)
    for (int64_t r = 0; r < rows; r++)
        norm_row(x + r * width, weight, width, eps, out + r * width);
}

AVX512 static void swiglu_row(const bf16 *gate, const bf16 *up, int64_t width, bf16 *out)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512 g = load16(gate + i);
        __m512 below = _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), g)));
        store16(out + i, _mm512_mul_ps(_mm512_div_ps(g, below), load16(up + i)));
    }
}

/* gate_up [rows, 2 width]: gates, then what they open for; out [rows, width] = silu(gate) up */
void kg_swiglu(const bf16 *gate_up, int64_t rows, int64_t width, bf16 *out)
{
#pragma omp parallel for schedule(static) if (rows * width >= PARALLEL)
    for (int64_t r = 0; r < rows; r++)
        swiglu_row(gate_up + 2 * r * width, gate_up + (2 * r + 1) * width, width, out + r * width);
}

AVX512 static void rotate_head(const bf16 *x, const float *cosine, const float *sine, int64_t d, bf16 *out)
{
    for (int64_t i = 0, j = d / 2; i < d / 2; i += LANES, j += LANES) {
        __m512 a = load16(x + i), b = load16(x + j);
        __m512 low = _mm512_mul_ps(a, _mm512_loadu_ps(cosine + i));
        __m512 high = _mm512_mul_ps(b, _mm512_loadu_ps(cosine + j));
        store16(out + i, _mm512_fmadd_ps(b, _mm512_loadu_ps(sine + i), low));
        store16(out + j, _mm512_fmadd_ps(a, _mm512_loadu_ps(sine + j), high));
    }
}

/* qkv [rows, heads + 2 kv_heads, d]; cosine, sine [rows, d] as in kan/rope.py; slots [rows]; kv [2, kv_heads,
 * cache_slots, d]. Rotated queries go to q [rows, heads, d], rotated keys and plain values into the cache. */
int kg_rotate_and_store(const bf16 *qkv, const float *cosine, const float *sine, const int64_t *slots, bf16 *kv,
                        bf16 *q, int64_t rows, int64_t heads, int64_t kv_heads, int64_t d, int64_t cache_slots)
{
    for (int64_t r = 0; r < rows; r++)
        if (slots[r] < 0 || slots[r] >= cache_slots) return BAD_INDEX;
#pragma omp parallel for schedule(static) if (rows * heads * d >= 4 * PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *from = qkv + r * (heads + 2 * kv_heads) * d;
        for (int64_t h = 0; h < heads; h++, from += d)
            rotate_head(from, cosine + r * d, sine + r * d, d, q + (r * heads + h) * d);
        for (int64_t h = 0; h < kv_heads; h++, from += d) {
            rotate_head(from, cosine + r * d, sine + r * d, d, kv + (h * cache_slots + slots[r]) * d);
            memcpy(kv + ((kv_heads + h) * cache_slots + slots[r]) * d, from + kv_heads * d, (size_t)d * sizeof(bf16));
        }
    }
    return DONE;
}

#else

int kg_supported(void) { return 0; }

#endif
