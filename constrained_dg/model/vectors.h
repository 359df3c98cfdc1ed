// Vectors, rows of a head in registers, and matrix products that fit the cache; included by attention.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef float v4 __attribute__((vector_size(16)));
typedef uint32_t u4 __attribute__((vector_size(16)));
typedef uint16_t h4 __attribute__((vector_size(8)));

namespace {

template <typename V = v16>
inline V get(const float* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <typename V>
inline void put(float* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// exp(x) to about 1e-7, for x <= 0; 0 where exp(x) is below the smallest normal number.
v16 exponential(v16 x) {
    const v16 n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to an integer
    const v16 r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const v16 scaled = (v16)((i16)p + (__builtin_convertvector(n, i16) << 23));
    return x > -87.0f ? scaled : v16{};
}

// c[r, :] (+)= sum over t of a[r * rows + t * terms] * b[t, :], for R rows and C vectors V.
template <typename V, int R, int C>
inline void tile(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
                 int64_t count, bool add) {
    constexpr int W = sizeof(V) / sizeof(float);
    V sum[R][C];
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) sum[r][j] = add ? get<V>(c + r * ldc + j * W) : V{};
    for (int64_t t = 0; t < count; ++t) {
        V right[C];
        for (int j = 0; j < C; ++j) right[j] = get<V>(b + t * ldb + j * W);
        for (int r = 0; r < R; ++r) {
            const float left = a[r * rows + t * terms];
            for (int j = 0; j < C; ++j) sum[r][j] += right[j] * left;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) put<V>(c + r * ldc + j * W, sum[r][j]);
}

template <typename V, int C>
void stripe(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
            int64_t height, int64_t count, bool add) {
    constexpr int R = 9;
    int64_t r = 0;
    for (; r + R <= height; r += R)
        tile<V, R, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
    for (; r + 3 <= height; r += 3)
        tile<V, 3, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
    for (; r < height; ++r) tile<V, 1, C>(a + r * rows, rows, terms, b, ldb, c + r * ldc, ldc, count, add);
}

// c (height, width) (+)= a b with width a multiple of the vector V.
template <typename V>
void product(const float* a, int64_t rows, int64_t terms, const float* b, int64_t ldb, float* c, int64_t ldc,
             int64_t height, int64_t width, int64_t count, bool add) {
    constexpr int W = sizeof(V) / sizeof(float);
    int64_t j = 0;
    for (; j + 3 * W <= width; j += 3 * W)
        stripe<V, 3>(a, rows, terms, b + j, ldb, c + j, ldc, height, count, add);
    for (; j < width; j += W) stripe<V, 1>(a, rows, terms, b + j, ldb, c + j, ldc, height, count, add);
}

// Pairs first: a sum in order would wait for each addition.
float total(v8 x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }

float total(v16 x) {
    v8 half[2];
    std::memcpy(half, &x, sizeof(x));
    return total(half[0] + half[1]);
}

float maximum(const float* x, int64_t count) {
    v8 most = get<v8>(x);
    for (int64_t j = 8; j < count; j += 8) {
        const v8 other = get<v8>(x + j);
        most = other > most ? other : most;
    }
    float value = most[0];
    for (int j = 1; j < 8; ++j) value = most[j] > value ? most[j] : value;
    return value;
}

// One vector of a head, in registers.
struct Row {
    static constexpr int P = HEAD / 4, R = P / 2;  // parts; those of the first of each rotated pair
    v4 x[P];
};
#define INLINE inline __attribute__((always_inline))

INLINE Row row(const float* from) {
    Row row;
    for (int p = 0; p < Row::P; ++p) row.x[p] = get<v4>(from + p * 4);
    return row;
}

INLINE Row load(const void* from, int64_t at, bool half) {
    if (!half) return row((const float*)from + at);
    Row row;
    for (int p = 0; p < Row::P; ++p) {
        h4 bits;
        std::memcpy(&bits, (const uint16_t*)from + at + p * 4, sizeof(bits));
        row.x[p] = (v4)(__builtin_convertvector(bits, u4) << 16);
    }
    return row;
}

INLINE void put(float* to, const Row& row) {
    for (int p = 0; p < Row::P; ++p) put(to + p * 4, row.x[p]);
}

INLINE void store(void* to, int64_t at, const Row& row, bool half) {
    if (!half) return put((float*)to + at, row);
    for (int p = 0; p < Row::P; ++p) {
        const u4 bits = (u4)row.x[p];
        const h4 near = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, h4);  // ties to even
        std::memcpy((uint16_t*)to + at + p * 4, &near, sizeof(near));
    }
}

INLINE float dot(const Row& a, const Row& b) {
    v4 sums[2] = {};
    for (int p = 0; p < Row::P; ++p) sums[p % 2] += a.x[p] * b.x[p];
    const v4 sum = sums[0] + sums[1];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

INLINE Row operator*(const Row& a, float factor) {
    Row row;
    for (int p = 0; p < Row::P; ++p) row.x[p] = a.x[p] * factor;
    return row;
}

INLINE Row operator*(const Row& a, const Row& b) {
    Row row;
    for (int p = 0; p < Row::P; ++p) row.x[p] = a.x[p] * b.x[p];
    return row;
}

INLINE Row operator+(const Row& a, const Row& b) {
    Row row;
    for (int p = 0; p < Row::P; ++p) row.x[p] = a.x[p] + b.x[p];
    return row;
}

}  // namespace
