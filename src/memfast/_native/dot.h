/* Dot products, chosen when the program runs: plain C everywhere, AVX2, AVX-VNNI and AVX-512 on x86-64.
 *
 * Every block function handles MF_BLOCK rows given by pointers. The order of additions within a row depends
 * neither on the row's place in the block nor on its neighbours, so equal rows get equal sums. */
#ifndef MEMFAST_DOT_H
#define MEMFAST_DOT_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define MF_X86 1
#include <cpuid.h>
#include <immintrin.h>
#if (defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11)
#define MF_HAS_AVXVNNI 1
#endif
#endif

#define MF_BLOCK 8
#define MF_CODE_PAD 64 /* bytes to which the codes of a query are padded with zeros */

enum { MF_SCALAR, MF_AVX2, MF_AVX2VNNI, MF_AVX512, MF_AVX512VNNI, MF_LEVELS };

typedef double (*mf_dot64_t)(const float *, const float *, ptrdiff_t);
typedef void (*mf_dots_t)(const float *const *, const float *, ptrdiff_t, float *);
typedef void (*mf_codes_t)(const int8_t *const *, const int8_t *, ptrdiff_t, int32_t, int32_t *);

/* ---- float64 sums of exact products in eight lanes; the order is a contract: _vectors_reference.lane_sums.
 * A fused multiply-add changes nothing here: the product of two float32 is exact in float64. ---- */

static inline double mf_add_lanes(const double *lane) {
    double even = (lane[0] + lane[4]) + (lane[2] + lane[6]);
    double odd = (lane[1] + lane[5]) + (lane[3] + lane[7]);
    return even + odd;
}

static double mf_dot64_scalar(const float *x, const float *q, ptrdiff_t d) {
    double lane[8] = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= d; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    for (int j = 0; i + j < d; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    return mf_add_lanes(lane);
}

/* ---- float32, sixteen lanes a row ---- */

static void mf_dots_scalar(const float *const *rows, const float *q, ptrdiff_t d, float *out) {
    for (int r = 0; r < MF_BLOCK; r++) {
        const float *x = rows[r];
        float lane[16] = {0};
        ptrdiff_t i = 0;
        for (; i + 16 <= d; i += 16)
            for (int j = 0; j < 16; j++) lane[j] += x[i + j] * q[i + j];
        for (int j = 0; i + j < d; j++) lane[j] += x[i + j] * q[i + j];
        for (int width = 8; width > 0; width /= 2)
            for (int j = 0; j < width; j++) lane[j] += lane[j + width];
        out[r] = lane[0];
    }
}

/* ---- int8 ---- */

static void mf_codes_scalar(const int8_t *const *rows, const int8_t *q, ptrdiff_t d, int32_t q_sum, int32_t *out) {
    (void)q_sum;
    for (int r = 0; r < MF_BLOCK; r++) {
        int32_t sum = 0;
        for (ptrdiff_t i = 0; i < d; i++) sum += (int32_t)rows[r][i] * (int32_t)q[i];
        out[r] = sum;
    }
}

#ifdef MF_X86
#define MF_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define MF_TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define MF_TARGET_VNNI __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define MF_TARGET_AVXVNNI __attribute__((target("avx2,fma,avxvnni")))

MF_TARGET_AVX2 static double mf_dot64_avx2(const float *x, const float *q, ptrdiff_t d) {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    ptrdiff_t i = 0;
    for (; i + 8 <= d; i += 8) {
        low = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i)), _mm256_cvtps_pd(_mm_loadu_ps(q + i)), low);
        high = _mm256_fmadd_pd(_mm256_cvtps_pd(_mm_loadu_ps(x + i + 4)), _mm256_cvtps_pd(_mm_loadu_ps(q + i + 4)), high);
    }
    double lane[8];
    _mm256_storeu_pd(lane, low);
    _mm256_storeu_pd(lane + 4, high);
    for (int j = 0; i + j < d; j++) lane[j] += (double)x[i + j] * (double)q[i + j];
    return mf_add_lanes(lane);
}

/* A mask that loads the first `count` (0..8) of eight 32-bit lanes. */
MF_TARGET_AVX2 static inline __m256i mf_first8(ptrdiff_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Eight vectors of eight lanes to their eight sums. */
MF_TARGET_AVX2 static inline __m256 mf_sum8(const __m256 *a) {
    __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

MF_TARGET_AVX2 static inline __m256i mf_sum8_epi32(const __m256i *a) {
    __m256i low = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    __m256i high = _mm256_hadd_epi32(_mm256_hadd_epi32(a[4], a[5]), _mm256_hadd_epi32(a[6], a[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
}

MF_TARGET_AVX2 static void mf_dots_avx2(const float *const *rows, const float *q, ptrdiff_t d, float *out) {
    __m256 sums[MF_BLOCK];
    for (int half = 0; half < MF_BLOCK; half += 4) {
        __m256 a[4], b[4];
        for (int r = 0; r < 4; r++) a[r] = b[r] = _mm256_setzero_ps();
        ptrdiff_t i = 0;
        for (; i + 16 <= d; i += 16) {
            __m256 q0 = _mm256_loadu_ps(q + i), q1 = _mm256_loadu_ps(q + i + 8);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                a[r] = _mm256_fmadd_ps(_mm256_loadu_ps(rows[half + r] + i), q0, a[r]);
                b[r] = _mm256_fmadd_ps(_mm256_loadu_ps(rows[half + r] + i + 8), q1, b[r]);
            }
        }
        if (i < d) {
            __m256i m0 = mf_first8(d - i), m1 = mf_first8(d - i - 8);
            __m256 q0 = _mm256_maskload_ps(q + i, m0), q1 = _mm256_maskload_ps(q + i + 8, m1);
            for (int r = 0; r < 4; r++) {
                a[r] = _mm256_fmadd_ps(_mm256_maskload_ps(rows[half + r] + i, m0), q0, a[r]);
                b[r] = _mm256_fmadd_ps(_mm256_maskload_ps(rows[half + r] + i + 8, m1), q1, b[r]);
            }
        }
        for (int r = 0; r < 4; r++) sums[half + r] = _mm256_add_ps(a[r], b[r]);
    }
    _mm256_storeu_ps(out, mf_sum8(sums));
}

/* Ask for what stands a block of rows further on. A processor's own prefetching stops at each page of 4 KiB, which are
 * 16 rows of 256 codes or 4 of 256 numbers: a scan of 10,000 such rows takes a quarter less by codes, a twentieth by
 * numbers. An address behind the end does no harm. */
MF_TARGET_AVX2 static inline const void *mf_ahead(const void *x, ptrdiff_t bytes) {
    _mm_prefetch((const char *)((uintptr_t)x + MF_BLOCK * bytes), _MM_HINT_T0);
    return x;
}

MF_TARGET_AVX512 static void mf_dots_avx512(const float *const *rows, const float *q, ptrdiff_t d, float *out) {
    __m512 a[MF_BLOCK];
    __m256 sums[MF_BLOCK];
    for (int r = 0; r < MF_BLOCK; r++) a[r] = _mm512_setzero_ps();
    ptrdiff_t i = 0;
    for (; i + 16 <= d; i += 16) {
        __m512 wanted = _mm512_loadu_ps(q + i);
#pragma GCC unroll 8
        for (int r = 0; r < MF_BLOCK; r++)
            a[r] = _mm512_fmadd_ps(_mm512_loadu_ps(mf_ahead(rows[r] + i, d * (ptrdiff_t)sizeof(float))), wanted, a[r]);
    }
    if (i < d) {
        __mmask16 rest = (__mmask16)((1u << (d - i)) - 1);
        __m512 wanted = _mm512_maskz_loadu_ps(rest, q + i);
        for (int r = 0; r < MF_BLOCK; r++) a[r] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(rest, rows[r] + i), wanted, a[r]);
    }
    for (int r = 0; r < MF_BLOCK; r++)
        sums[r] = _mm256_add_ps(_mm512_castps512_ps256(a[r]), _mm512_extractf32x8_ps(a[r], 1));
    _mm256_storeu_ps(out, mf_sum8(sums));
}

/* The last, short block of a row's codes, as if the row were padded with zeros. */
MF_TARGET_AVX2 static inline __m256i mf_short_codes(const int8_t *x, ptrdiff_t count) {
    int8_t padded[32] = {0};
    for (ptrdiff_t i = 0; i < count; i++) padded[i] = x[i];
    return _mm256_loadu_si256((const __m256i *)padded);
}

/* |x| times sign(x) q fits: 2 * 128 * 127 < 2^15, so the pairwise int16 sums never saturate. */
MF_TARGET_AVX2 static inline __m256i mf_madd_codes(__m256i sum, __m256i x, __m256i q) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(q, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

MF_TARGET_AVX2 static void mf_codes_avx2(const int8_t *const *rows, const int8_t *q, ptrdiff_t d, int32_t q_sum, int32_t *out) {
    (void)q_sum;
    __m256i a[MF_BLOCK];
    for (int r = 0; r < MF_BLOCK; r++) a[r] = _mm256_setzero_si256();
    ptrdiff_t i = 0;
    for (; i + 32 <= d; i += 32) {
        __m256i wanted = _mm256_loadu_si256((const __m256i *)(q + i));
#pragma GCC unroll 8
        for (int r = 0; r < MF_BLOCK; r++)
            a[r] = mf_madd_codes(a[r], _mm256_loadu_si256((const __m256i *)mf_ahead(rows[r] + i, d)), wanted);
    }
    if (i < d) {
        __m256i wanted = _mm256_loadu_si256((const __m256i *)(q + i));
        for (int r = 0; r < MF_BLOCK; r++) a[r] = mf_madd_codes(a[r], mf_short_codes(rows[r] + i, d - i), wanted);
    }
    _mm256_storeu_si256((__m256i *)out, mf_sum8_epi32(a));
}

/* VNNI multiplies unsigned by signed: x + 128 takes the unsigned place, and 128 * sum(q) is taken off again. */
#ifdef MF_HAS_AVXVNNI
MF_TARGET_AVXVNNI static void mf_codes_avxvnni(const int8_t *const *rows, const int8_t *q, ptrdiff_t d, int32_t q_sum, int32_t *out) {
    const __m256i flip = _mm256_set1_epi8(-128);
    __m256i a[MF_BLOCK];
    for (int r = 0; r < MF_BLOCK; r++) a[r] = _mm256_setzero_si256();
    ptrdiff_t i = 0;
    for (; i + 32 <= d; i += 32) {
        __m256i wanted = _mm256_loadu_si256((const __m256i *)(q + i));
#pragma GCC unroll 8
        for (int r = 0; r < MF_BLOCK; r++) {
            __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)mf_ahead(rows[r] + i, d)), flip);
            a[r] = _mm256_dpbusd_avx_epi32(a[r], x, wanted);
        }
    }
    if (i < d) {
        __m256i wanted = _mm256_loadu_si256((const __m256i *)(q + i));
        for (int r = 0; r < MF_BLOCK; r++) {
            __m256i x = _mm256_xor_si256(mf_short_codes(rows[r] + i, d - i), flip);
            a[r] = _mm256_dpbusd_avx_epi32(a[r], x, wanted);
        }
    }
    __m256i sums = _mm256_sub_epi32(mf_sum8_epi32(a), _mm256_set1_epi32(128 * q_sum));
    _mm256_storeu_si256((__m256i *)out, sums);
}
#endif

MF_TARGET_VNNI static void mf_codes_avx512vnni(const int8_t *const *rows, const int8_t *q, ptrdiff_t d, int32_t q_sum, int32_t *out) {
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i a[MF_BLOCK];
    __m256i sums[MF_BLOCK];
    for (int r = 0; r < MF_BLOCK; r++) a[r] = _mm512_setzero_si512();
    ptrdiff_t i = 0;
    for (; i + 64 <= d; i += 64) {
        __m512i wanted = _mm512_loadu_si512(q + i);
#pragma GCC unroll 8
        for (int r = 0; r < MF_BLOCK; r++)
            a[r] = _mm512_dpbusd_epi32(a[r], _mm512_xor_si512(_mm512_loadu_si512(mf_ahead(rows[r] + i, d)), flip), wanted);
    }
    if (i < d) {
        __mmask64 rest = (((__mmask64)1) << (d - i)) - 1;
        __m512i wanted = _mm512_loadu_si512(q + i);
        for (int r = 0; r < MF_BLOCK; r++)
            a[r] = _mm512_dpbusd_epi32(a[r], _mm512_xor_si512(_mm512_maskz_loadu_epi8(rest, rows[r] + i), flip), wanted);
    }
    for (int r = 0; r < MF_BLOCK; r++)
        sums[r] = _mm256_add_epi32(_mm512_castsi512_si256(a[r]), _mm512_extracti64x4_epi64(a[r], 1));
    _mm256_storeu_si256((__m256i *)out, _mm256_sub_epi32(mf_sum8_epi32(sums), _mm256_set1_epi32(128 * q_sum)));
}

static int mf_cpu_has_avxvnni(void) {
#ifdef MF_HAS_AVXVNNI
    unsigned int eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1);
#else
    return 0;
#endif
}
#endif

/* ---- rows far apart ---- */

/* Ask for a row that is read soon: the processor does not guess which one it is. */
static inline void mf_prefetch(const float *x, ptrdiff_t d) {
#if defined(__GNUC__)
    for (ptrdiff_t i = 0; i < d; i += 16) __builtin_prefetch(x + i);
#else
    (void)x, (void)d;
#endif
}

/* ---- the choice ---- */

static mf_dot64_t mf_dot64 = mf_dot64_scalar;
static mf_dots_t mf_dots = mf_dots_scalar;
static mf_codes_t mf_codes = mf_codes_scalar;

static int mf_supports(int level) {
#ifdef MF_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (level) {
        case MF_SCALAR: return 1;
        case MF_AVX2: return avx2;
        case MF_AVX2VNNI: return avx2 && mf_cpu_has_avxvnni();
        case MF_AVX512: return avx512;
        case MF_AVX512VNNI: return avx512 && __builtin_cpu_supports("avx512vnni");
    }
    return 0;
#else
    return level == MF_SCALAR;
#endif
}

static void mf_use(int level) {
    mf_dot64 = mf_dot64_scalar;
    mf_dots = mf_dots_scalar;
    mf_codes = mf_codes_scalar;
#ifdef MF_X86
    if (level >= MF_AVX2) {
        mf_dot64 = mf_dot64_avx2;
        mf_dots = level >= MF_AVX512 ? mf_dots_avx512 : mf_dots_avx2;
        mf_codes = level == MF_AVX512VNNI ? mf_codes_avx512vnni : mf_codes_avx2;
    }
#ifdef MF_HAS_AVXVNNI
    if (level == MF_AVX2VNNI) mf_codes = mf_codes_avxvnni;
#endif
#else
    (void)level;
#endif
}

/* ---- scores and codes ---- */

/* The score that is shown: rounded to 1e-6 half to even as numpy.round does it, never below zero. */
static inline double mf_score(double dot) {
    double rounded = rint(dot * 1e6) / 1e6;
    return rounded > 0.0 ? rounded : 0.0;
}

/* Round half to even for |value| < 2^22, without a call. */
static inline float mf_round(float value) {
    const float shift = 12582912.0f; /* 1.5 * 2^23 */
    return (value + shift) - shift;
}

/* Write the codes of one row; return its scale, its squared norm and the squared norm of what the codes miss. */
static inline float mf_quantise(const float *x, ptrdiff_t d, int8_t *codes, double *norm2, double *residual2) {
    float peak = 0.0f;
    for (ptrdiff_t i = 0; i < d; i++) {
        float size = fabsf(x[i]);
        peak = size > peak ? size : peak;
    }
    float scale = peak / 127.0f;
    double all = 0.0, missed = 0.0;
    for (ptrdiff_t i = 0; i < d; i++) {
        float code = scale > 0.0f ? mf_round(x[i] / scale) : 0.0f;
        code = code > 127.0f ? 127.0f : code < -127.0f ? -127.0f : code;
        double rest = (double)x[i] - (double)scale * (double)code;
        codes[i] = (int8_t)code;
        all += (double)x[i] * (double)x[i];
        missed += rest * rest;
    }
    *norm2 = all;
    *residual2 = missed;
    return scale;
}

#endif
