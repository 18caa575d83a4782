/* CRC-32 by carry-less multiplication, where the processor has it. */
#ifndef MEMFAST_CRC32_H
#define MEMFAST_CRC32_H

#include <stddef.h>
#include <stdint.h>

#define MF_CRC32_BLOCK 16
#define MF_CRC32_LEAST 64 /* bytes that a fold takes at least */

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define MF_TARGET_CLMUL __attribute__((target("sse4.1,pclmul")))

static inline int mf_crc32_supported(void) {
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

/* One fold: what 128 bits become that many bits further on, which the constants say, added to the bits there. */
MF_TARGET_CLMUL static inline __m128i mf_fold(__m128i bits, __m128i constants, __m128i there) {
    __m128i low = _mm_clmulepi64_si128(bits, constants, 0x00);
    __m128i high = _mm_clmulepi64_si128(bits, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), there);
}

/* The inverted CRC-32 of `size` more bytes, a multiple of MF_CRC32_BLOCK and not less than MF_CRC32_LEAST.
 * Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009, with the
 * constants of the reflected polynomial 0xEDB88320 from its appendix. */
MF_TARGET_CLMUL static uint32_t mf_crc32_fold(const unsigned char *bytes, ptrdiff_t size, uint32_t crc) {
    const __m128i by_512 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i by_64 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i reduction = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i even_words = _mm_setr_epi32(~0, 0, ~0, 0);
    const __m128i *block = (const __m128i *)bytes;
    __m128i x[4], y;
    for (int i = 0; i < 4; i++) x[i] = _mm_loadu_si128(block + i);
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)crc));
    block += 4;
    size -= 64;
    for (; size >= 64; block += 4, size -= 64)
        for (int i = 0; i < 4; i++) x[i] = mf_fold(x[i], by_512, _mm_loadu_si128(block + i));
    for (int i = 1; i < 4; i++) x[0] = mf_fold(x[0], by_128, x[i]);
    for (; size >= 16; block++, size -= 16) x[0] = mf_fold(x[0], by_128, _mm_loadu_si128(block));

    y = _mm_xor_si128(_mm_srli_si128(x[0], 8), _mm_clmulepi64_si128(x[0], by_128, 0x10)); /* 128 bits to 64 */
    x[0] = _mm_clmulepi64_si128(_mm_and_si128(y, even_words), by_64, 0x00);
    y = _mm_xor_si128(x[0], _mm_srli_si128(y, 4));
    x[0] = _mm_clmulepi64_si128(_mm_and_si128(y, even_words), reduction, 0x10); /* Barrett, 64 bits to 32 */
    x[0] = _mm_clmulepi64_si128(_mm_and_si128(x[0], even_words), reduction, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(x[0], y), 1);
}

#else

static inline int mf_crc32_supported(void) { return 0; }

static inline uint32_t mf_crc32_fold(const unsigned char *bytes, ptrdiff_t size, uint32_t crc) {
    (void)bytes;
    (void)size;
    return crc;
}

#endif
#endif
