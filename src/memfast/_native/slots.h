/* Counters that processes share, and the keyed hash that spreads scopes over them. */
#ifndef MEMFAST_SLOTS_H
#define MEMFAST_SLOTS_H

#include <stdint.h>
#include <string.h>

static inline uint64_t mf_load(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_ACQUIRE); }

static inline uint64_t mf_bump(uint64_t *counter) { return __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST); }

static inline uint64_t mf_word(const unsigned char *bytes) {
    uint64_t word;
    memcpy(&word, bytes, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

#define MF_ROTATE(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define MF_SIP_ROUND                                                                                       \
    do {                                                                                                   \
        v0 += v1; v1 = MF_ROTATE(v1, 13); v1 ^= v0; v0 = MF_ROTATE(v0, 32);                                \
        v2 += v3; v3 = MF_ROTATE(v3, 16); v3 ^= v2;                                                        \
        v0 += v3; v3 = MF_ROTATE(v3, 21); v3 ^= v0;                                                        \
        v2 += v1; v1 = MF_ROTATE(v1, 17); v1 ^= v2; v2 = MF_ROTATE(v2, 32);                                \
    } while (0)

/* SipHash-2-4 (Aumasson and Bernstein, 2012) of a message of 16 bytes. */
static inline uint64_t mf_siphash16(const unsigned char *key, const unsigned char *message) {
    uint64_t k0 = mf_word(key), k1 = mf_word(key + 8);
    uint64_t v0 = k0 ^ UINT64_C(0x736f6d6570736575), v1 = k1 ^ UINT64_C(0x646f72616e646f6d);
    uint64_t v2 = k0 ^ UINT64_C(0x6c7967656e657261), v3 = k1 ^ UINT64_C(0x7465646279746573);
    uint64_t words[3] = {mf_word(message), mf_word(message + 8), UINT64_C(16) << 56};
    for (int i = 0; i < 3; i++) {
        v3 ^= words[i];
        MF_SIP_ROUND;
        MF_SIP_ROUND;
        v0 ^= words[i];
    }
    v2 ^= 0xff;
    for (int i = 0; i < 4; i++) MF_SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

#endif
