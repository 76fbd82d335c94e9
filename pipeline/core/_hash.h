/* Hashing and comparing byte strings word by word, for the native parts that look texts up. */
#ifndef STREAMGAUGE_HASH_H
#define STREAMGAUGE_HASH_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t word8(const char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

static inline uint64_t word4(const char *p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}

static inline uint64_t mixed(uint64_t a, uint64_t b) {
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Words overlap at the end, so that no byte is taken alone (as wyhash does it). */
static inline uint32_t hash_of(uint64_t seed, const char *text, int32_t length) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ (uint64_t)length ^ seed, last;
    if (length >= 8) {
        const char *tail = text + length - 8;
        for (; text < tail; text += 8) hash = mixed(hash ^ word8(text), 0xE7037ED1A0B428DBu);
        last = word8(tail);
    } else if (length >= 4) {
        last = word4(text) << 32 | word4(text + length - 4);
    } else {
        last = length == 0 ? 0 : (uint64_t)(uint8_t)text[0] << 16 | (uint64_t)(uint8_t)text[length / 2] << 8 | (uint8_t)text[length - 1];
    }
    hash = mixed(hash ^ last, 0x8EBC6AF09C88C6E3u);
    return (uint32_t)(hash ^ hash >> 32);
}

static inline bool is_same(const char *a, const char *b, int32_t length) {
    if (length >= 8) {
        const char *tail = a + length - 8;
        if (word8(tail) != word8(b + length - 8)) return false;
        for (; a < tail; a += 8, b += 8)
            if (word8(a) != word8(b)) return false;
        return true;
    }
    if (length >= 4) return word4(a) == word4(b) && word4(a + length - 4) == word4(b + length - 4);
    for (int32_t i = 0; i < length; i++)
        if (a[i] != b[i]) return false;
    return true;
}

#endif
