/* Dot products with run-time dispatch. Compiles everywhere; x86-64 gets AVX2 and AVX-512 variants. */
#ifndef MEMFAST_DOT_H
#define MEMFAST_DOT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define MEMFAST_X86 1
#include <immintrin.h>
#endif

enum { MF_SCALAR = 0, MF_AVX2 = 1, MF_AVX512 = 2 };

/* float64 sum of exact products in eight lanes: the order is a contract, see _vectors_reference.py. A fused
 * multiply-add gives the same bits here, because a product of two float32 is exact in float64. */
static inline __attribute__((always_inline)) double mf_lanes(const float *x, const float *q, ptrdiff_t d) {
    double lane[8] = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= d; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    for (int j = 0; i + j < d; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    double a = (lane[0] + lane[4]) + (lane[2] + lane[6]);
    double b = (lane[1] + lane[5]) + (lane[3] + lane[7]);
    return a + b;
}

static double mf_dot64_scalar(const float *x, const float *q, ptrdiff_t d) { return mf_lanes(x, q, d); }

#ifdef MEMFAST_X86
__attribute__((target("avx2,fma"))) static double mf_dot64_avx2(const float *x, const float *q, ptrdiff_t d) {
    __m256d a = _mm256_setzero_pd(), b = _mm256_setzero_pd();
    ptrdiff_t i = 0;
    for (; i + 8 <= d; i += 8) {
        a = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), _mm256_cvtps_pd(_mm_loadu_ps(q + i)), a);
        b = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)), _mm256_cvtps_pd(_mm_loadu_ps(q + i + 4)), b);
    }
    double lane[8];
    _mm256_storeu_pd(lane, a);
    _mm256_storeu_pd(lane + 4, b);
    for (int j = 0; i + j < d; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    double c = (lane[0] + lane[4]) + (lane[2] + lane[6]);
    double e = (lane[1] + lane[5]) + (lane[3] + lane[7]);
    return c + e;
}
#endif

static double (*mf_dot64)(const float *, const float *, ptrdiff_t) = mf_dot64_scalar;

/* The score that is shown: rounded to 1e-6 half to even as numpy.round does it, never below zero. */
static inline double mf_score(double dot) {
    double rounded = rint(dot * 1e6) / 1e6;
    return rounded > 0.0 ? rounded : 0.0;
}

static int mf_best_level(void) {
#ifdef MEMFAST_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return MF_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return MF_AVX512;
    return MF_AVX2;
#else
    return MF_SCALAR;
#endif
}

static void mf_use_level(int level) {
    mf_dot64 = mf_dot64_scalar;
#ifdef MEMFAST_X86
    if (level >= MF_AVX2) mf_dot64 = mf_dot64_avx2;
#else
    (void)level;
#endif
}

#endif
